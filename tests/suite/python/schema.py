# Compares answers with the OpenAPI document: reads {"document": …, "answers": […]} and prints what doesn't fit. What the
# document doesn't mention doesn't fit either.
import json, sys
import jsonschema_rs

with open(sys.argv[1]) as file:
    given = json.load(file)
document = given["document"]
schemas = document["components"]["schemas"]
parts = set()


def find_parts(schema):
    """Schemas that stand for some of the fields of another can't be closed by themselves."""
    if isinstance(schema, dict):
        parts.update(part["$ref"] for part in schema.get("allOf", []) if "$ref" in part)
        for value in schema.values():
            find_parts(value)
    elif isinstance(schema, list):
        for value in schema:
            find_parts(value)


def close(schema):
    if isinstance(schema, dict):
        inner = [value for key, value in schema.items() if key != "allOf"]
        for value in inner:
            close(value)
        if "allOf" in schema or ("properties" in schema and "additionalProperties" not in schema):
            schema["unevaluatedProperties"] = False
    elif isinstance(schema, list):
        for value in schema:
            close(value)


def resolve(node):
    while "$ref" in node:
        name = node["$ref"].removeprefix("#/").split("/")
        node = document
        for part in name:
            node = node[part]
    return node


find_parts(schemas)
for name, schema in schemas.items():
    if f"#/components/schemas/{name}" not in parts:
        close(schema)

for answer in given["answers"]:
    what = f'{answer["method"]} {answer["route"]} {answer["status"]}'
    operation = document["paths"][answer["route"]][answer["method"].lower()]
    response = operation["responses"].get(str(answer["status"]))
    if response is None:
        print(f"{what}: no such answer")
        continue
    response = resolve(response)
    described = {name.lower() for name in response.get("headers", {})}
    content = response.get("content", {})
    if answer["type"] not in (content or {None: None}):
        print(f'{what}: {answer["type"]} is not described')
        continue
    for name in {"etag", "location", "retry-after", "www-authenticate", "content-range", "repr-digest", "accept-ranges",
                 "content-disposition", "x-request-id"} & set(answer["headers"]) - described:
        print(f"{what}: the header {name} is not described")
    if answer["body"] is not None:
        schema = {"allOf": [content[answer["type"]]["schema"]], "unevaluatedProperties": False}
        schema |= {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": document["components"]}
        for error in jsonschema_rs.validator_for(schema, validate_formats=True).iter_errors(answer["body"]):
            print(f"{what}: {error}")
