// Makes TypeScript types of JSON Schemas and compiles sources against them with `tsc --strict`, all in one run.
//
// Standard input:  {"schemas": {NAME: schema}, "sources": {NAME: TypeScript}}
// Standard output: {NAME: [what tsc says of that source, or of that schema's type]}; an empty list: it compiles.
//
// A source has the type of a whole stored text by `import type { Outbox } from "./NAME.js"`, and the published package
// by its name.

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "json-schema-to-typescript";

const MODULES = fileURLToPath(new URL("../node_modules", import.meta.url));
const PACKAGE = "@drakkar.software/starfish-outbox";
const CONFIG = {
  compilerOptions: {
    strict: true,
    noEmit: true,
    module: "nodenext",
    target: "es2022",
    types: [],
    paths: { [PACKAGE]: [join(MODULES, PACKAGE, "dist/index.d.ts")] },
  },
  include: ["*.ts"],
};
const DIAGNOSTIC = /^(\S+)\.ts\(\d+,\d+\): error (TS\d+: .*)$/;

/** What tsc prints; a reason may go on in indented lines. */
function tsc(folder) {
  const command = [join(MODULES, "typescript/bin/tsc"), "--project", folder, "--pretty", "false"];
  const { error, stdout, stderr, signal } = spawnSync(process.execPath, command, { cwd: folder, encoding: "utf8" });
  if (error || signal || stderr) throw error ?? new Error(`tsc: ${signal ?? stderr}`);
  return stdout.replaceAll(`${folder}/`, "").split(/\r?\n/);
}

/** What tsc says, by the name of the file. */
function diagnostics(folder, names) {
  const found = Object.fromEntries(names.map((name) => [name, []]));
  let last;
  for (const line of tsc(folder).filter((line) => line !== "")) {
    const [, name, message] = DIAGNOSTIC.exec(line) ?? [];
    if (found[name]) {
      last = found[name];
      last.push(message);
    } else if (last && line.startsWith(" ")) last.push(`${last.pop()}\n${line}`);
    else throw new Error(`tsc says: ${line}`);
  }
  return found;
}

const { schemas, sources } = JSON.parse(readFileSync(0, "utf8"));
const folder = realpathSync(mkdtempSync(join(tmpdir(), "starfish-types-")));
try {
  const write = (name, text) => writeFileSync(join(folder, name), text);
  write("package.json", '{"type":"module"}');
  write("tsconfig.json", JSON.stringify(CONFIG));
  for (const [name, schema] of Object.entries(schemas)) {
    const titled = { ...schema, title: "Outbox" }; // the type is named by the title
    write(`${name}.ts`, await compile(titled, "Outbox", { bannerComment: "", format: false }));
  }
  for (const [name, source] of Object.entries(sources)) write(`${name}.ts`, source);
  process.stdout.write(JSON.stringify(diagnostics(folder, [...Object.keys(schemas), ...Object.keys(sources)])));
} finally {
  rmSync(folder, { recursive: true });
}
