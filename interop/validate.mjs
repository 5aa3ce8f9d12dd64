// Holds stored texts against the JSON Schemas in Node: one JSON object a line on standard input,
// answered one a line once the input has ended.
//
//   {"form":"writer","text":"[...]"}     a text      -> {"json":true,"valid":false,"errors":[{"path":"/0/id","message":"…"}]}
//   {"form":"reader","file":"/a.json"}   a file      -> the same
//   {"form":"mine","schema":{...}}       a new form  -> {"json":true,"valid":true,"errors":[]}
//
// `json` is false where JSON.parse refuses the text.

import Ajv from "ajv/dist/2020.js";
import { readFileSync } from "node:fs";

const FORMS = { reader: "outbox.schema.json", writer: "outbox.writer.schema.json" };
const forms = new Map();
// strictNumbers off: the schema's own bounds are to refuse what reads as infinite, since not every validator does.
const ajv = new Ajv({ strict: true, strictNumbers: false, allErrors: true });
ajv.addVocabulary(["tsType"]); // for json-schema-to-typescript; says nothing about values

function define(form, { $id, ...schema }) {
  forms.set(form, ajv.compile(schema)); // without $id, of which ajv takes one schema each
}

function parsed(text) {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { damage: error.message };
  }
}

function answer({ form, schema, text, file }) {
  if (schema !== undefined) {
    define(form, schema);
    return { json: true, valid: true, errors: [] };
  }
  const { value, damage } = parsed(text ?? readFileSync(file, "utf8"));
  if (damage !== undefined) return { json: false, valid: false, errors: [{ path: "", message: damage }] };
  const validate = forms.get(form);
  const valid = validate(value);
  const errors = (validate.errors ?? []).map(({ instancePath, message }) => ({ path: instancePath, message }));
  return { json: true, valid, errors };
}

for (const [form, name] of Object.entries(FORMS)) {
  define(form, JSON.parse(readFileSync(new URL(`../schema/${name}`, import.meta.url), "utf8")));
}

const lines = readFileSync(0, "utf8").split("\n"); // on \n alone: JSON may hold U+2028 as it is
for (const line of lines) {
  if (line !== "") process.stdout.write(`${JSON.stringify(answer(JSON.parse(line)))}\n`);
}
