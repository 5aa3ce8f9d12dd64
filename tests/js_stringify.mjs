// Answers each line of JSON text with JSON.stringify(JSON.parse(line)): the judge of tests/test_jsontext.py.
// A line that JSON.parse refuses is answered with "!". Lines are split on \n alone: U+2028 and \r may stand in them.
import { readFileSync, writeSync } from "node:fs";

const lines = readFileSync(0, "utf8").split("\n");
lines.pop(); // what follows the last \n is empty
const answers = lines.map((line) => {
  let value;
  try {
    value = JSON.parse(line);
  } catch {
    return "!";
  }
  return JSON.stringify(value);
});

const bytes = Buffer.from(answers.map((answer) => `${answer}\n`).join(""), "utf8");
// A pipe may take less than all at once.
for (let at = 0; at < bytes.length; at += writeSync(1, bytes, at));
