// The app in Node: connections and prepared statements that stay for ever. One JSON command a line on standard input, one JSON
// answer a line on standard output; held.py beside the suite speaks the same.
//
// node app.mjs NAME=PATH...: a connection for each. {"db": NAME, "sql": SQL, "values": [...]} runs a statement, which was prepared
// when its text came first: {"rows": [...]} or {"changes": N}. With "step": true and no values it gives one row and stays where
// it is: {"row": [...]}, null at its end. What fails answers {"error": CODE, "message": TEXT}. It closes its connections when standard input ends.

import readline from 'node:readline';
import Database from 'better-sqlite3';

const apps = new Map();
for (const argument of process.argv.slice(2)) {
    const at = argument.indexOf('=');
    const connection = new Database(argument.slice(at + 1), { fileMustExist: true, timeout: 60000 });
    apps.set(argument.slice(0, at), { connection, statements: new Map(), cursors: new Map() });
}

function prepared(app, sql) {
    if (!app.statements.has(sql)) app.statements.set(sql, app.connection.prepare(sql));
    return app.statements.get(sql);
}

function run(app, { sql, values }) {
    const statement = prepared(app, sql);
    return statement.reader ? { rows: statement.raw().all(values) } : { changes: statement.run(values).changes };
}

function step(app, { sql }) {
    if (!app.cursors.has(sql)) app.cursors.set(sql, prepared(app, sql).raw().iterate());
    const { done, value } = app.cursors.get(sql).next();
    if (done) app.cursors.delete(sql);
    return { row: done ? null : value };
}

function obey(command) {
    try {
        return (command.step ? step : run)(apps.get(command.db), command);
    } catch (error) {
        return { error: error.code ?? error.name, message: error.message };
    }
}

console.log('"ready"');
for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(obey(JSON.parse(line))));
}
for (const { connection } of apps.values()) connection.close();
