"""What is asked of every page of ours: texts that attack it, its structure, its contrasts, and what sticks out."""

from __future__ import annotations

import random
from typing import Final

FRAGMENTS: Final = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "<svg/onload=alert(1)>",
    "</section></div></table><h1>taken</h1>",
    "</style><style>*{display:none}</style>",
    "</td></tr><tr><td>",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?xml ?>",
    "<plaintext>",
    "<textarea>",
    "<base href='//example.invalid'>",
    "<link rel=stylesheet href=//example.invalid/x.css>",
    "<iframe srcdoc='<script>1</script>'>",
    '" onmouseover="alert(1)" x="',
    "' autofocus onfocus='alert(1)",
    "&lt;script&gt;",
    "&#60;b&#62;",
    "&amp;amp;",
    "&nosuch;",
    "javascript:alert(1)",
    "{{7*7}}${7*7}<%= 7 %>",
    "\u202e\u2066reversed\u2069",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\x00",
    "\x1b[31m",
    "\r\n\t\x0b\x85\u2028\u2029",
    "\ud83d",
    "\udc00x",
    "\ufeff\u200b\u200d\u00ad",
    "\U0001f469\u200d\U0001f52c",
    "Z\u0324\u0349a\u0337\u0321l\u0334g\u0322o\u0353" + "\u0300" * 40,
    "\uff1cscript\uff1e",
    "\x7f\x9f",
    "\\u003cscript\\u003e",
    "%3Cscript%3E",
    "word",
    "日本語の長い文",
)


def hostile_texts(number: int, seed: int = 7) -> list[str]:
    """So many texts, no two alike: each fragment alone, then mixtures, among them words without an end."""
    dice = random.Random(seed)
    texts = dict.fromkeys(FRAGMENTS)
    while len(texts) < number:
        parts = dice.choices(FRAGMENTS, k=dice.randint(1, 5))
        if dice.random() < 0.05:
            parts.append(dice.choice("WÄ漢") * dice.choice((300, 5_000)))
        parts.append("".join(chr(dice.choice((dice.randrange(0x20, 0x250), dice.randrange(1, 0x3000)))) for _ in "12"))
        dice.shuffle(parts)
        mixed = "".join(parts).encode("utf-16-le", "surrogatepass")  # two halves that meet are one character
        texts[mixed.decode("utf-16-le", "surrogatepass")] = None
    return list(texts)[:number]


_SHAPES: Final = """root => {
  const shape = node => [...node.childNodes].filter(one => one.nodeType !== Node.TEXT_NODE).map(one =>
    one.nodeType === Node.ELEMENT_NODE
      ? `${one.localName}[${one.getAttributeNames()}](${shape(one)})` : `#${one.nodeType}`).join("");
  return [...root.querySelectorAll(".one")].map(shape);
}"""

SHAPES: Final = f"() => ({_SHAPES})(document)"
"""The elements, attributes and comments within each element of the class ``one``."""

SHAPES_IN: Final = f"html => ({_SHAPES})(new DOMParser().parseFromString(html, 'text/html'))"
"""The same of a text that is parsed and not shown: nothing in it is run or loaded."""

CONTRASTS: Final = """selector => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const clear = color => color === "transparent" || (numbers(color).length === 4 && numbers(color)[3] === 0);
  const light = color => {
    const [r, g, b] = numbers(color).slice(0, 3).map(one => one / 255)
      .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!clear(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const root of document.querySelectorAll(selector))
    for (const node of root.querySelectorAll("*")) {
      const texts = [...node.childNodes].filter(one => one.nodeType === Node.TEXT_NODE && one.data.trim());
      if (node.localName === "style" || !texts.length) continue;
      const [one, other] = [light(getComputedStyle(node).color), light(behind(node))].sort((a, b) => b - a);
      found.push({ratio: (one + 0.05) / (other + 0.05), what: `${node.localName}.${node.className}`});
    }
  return found;
}"""
"""The contrast (WCAG 2) of each element with a text of its own within what is selected."""

STICKS_OUT: Final = """([selector, cut]) => {
  const found = [];
  for (const root of document.querySelectorAll(selector)) {
    const {left, right} = root.getBoundingClientRect();
    for (const node of root.querySelectorAll("*")) {
      const box = node.getBoundingClientRect();
      if (!node.closest(cut) && (box.right > right + 0.5 || box.left < left - 0.5))
        found.push(`${node.localName}.${node.className}: ${box.left} to ${box.right} of ${left} to ${right}`);
    }
  }
  return found;
}"""
"""What reaches beyond what is selected; ``cut``: what is within these is cut off on purpose."""
