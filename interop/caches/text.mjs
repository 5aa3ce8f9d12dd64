// Bytes and text where JavaScript and Python differ: lone surrogates, and Python's str() of bytes and floats.

const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const ESCAPES = { "\t": "\\t", "\n": "\\n", "\r": "\\r", "\\": "\\\\" };

/**
 * @param {Uint8Array} bytes
 * @returns {string}
 * @throws {TypeError} they are no UTF-8; Node's own default would replace them, and the replacement would be stored
 */
export function fromUtf8(bytes) {
  return STRICT.decode(bytes);
}

/**
 * UTF-8 in which a lone surrogate has three bytes, as Python's "surrogatepass" writes it.
 * @param {string} text
 */
export function toUtf8WithSurrogates(text) {
  const parts = [];
  for (const character of text) {
    const code = character.codePointAt(0);
    const lone = code >= 0xd800 && code <= 0xdfff;
    const three = [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)];
    parts.push(lone ? Buffer.from(three) : Buffer.from(character));
  }
  return Buffer.concat(parts);
}

/**
 * The text that `toUtf8WithSurrogates` wrote.
 * @param {Uint8Array} bytes
 */
export function fromUtf8WithSurrogates(bytes) {
  let text = "";
  let start = 0;
  for (let index = 0; index < bytes.length; index += 1) {
    if (bytes[index] === 0xed && bytes[index + 1] >= 0xa0) {
      const lone = 0xd000 | ((bytes[index + 1] & 0x3f) << 6) | (bytes[index + 2] & 0x3f);
      text += fromUtf8(bytes.subarray(start, index)) + String.fromCharCode(lone);
      start = index + 3;
    }
  }
  return text + fromUtf8(bytes.subarray(start));
}

/**
 * Python's str() of bytes, such as b'\xed\xa0\x80'.
 * @param {Uint8Array} bytes
 */
export function pythonBytes(bytes) {
  const text = Buffer.from(bytes).toString("latin1");
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[^ -~]|[\\'"]/g, (character) => {
    if (character === "'" || character === '"') return character === quote ? `\\${quote}` : character;
    return ESCAPES[character] ?? `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
  return `b${quote}${body}${quote}`;
}

/**
 * Python's str() of a finite float: as JavaScript's, but with ".0", and with an exponent of two digits from 1e16 on and
 * below 1e-4.
 * @param {number} value
 */
export function pythonFloat(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e16 || size < 1e-4)) {
    return value.toExponential().replace(/e([+-])(\d)$/, "e$10$2");
  }
  const text = Object.is(value, -0) ? "-0" : String(value);
  return text.includes(".") ? text : `${text}.0`;
}
