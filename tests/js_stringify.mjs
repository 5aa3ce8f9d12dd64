// Answers each line of JSON text with JSON.stringify(JSON.parse(line)), or with "!" when JSON.parse refuses it.
// It is the judge of test_jsontext.py. Lines are split on \n alone: \r, U+2028 and U+2029 may stand in them.
function answer(line) {
  let value;
  try {
    value = JSON.parse(line);
  } catch {
    return "!\n";
  }
  return `${JSON.stringify(value)}\n`;
}

let held = "";
process.stdin.setEncoding("utf8");
process.stdin.on("data", (chunk) => {
  const lines = (held + chunk).split("\n");
  held = lines.pop();
  process.stdout.write(lines.map(answer).join(""));
});
