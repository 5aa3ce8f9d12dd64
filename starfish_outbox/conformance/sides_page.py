"""How the steps of two languages look in a notebook: a table, no script, nothing from outside, all values escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Final

from starfish_outbox.jsontext import DamagedText, decode, encode_foreign

if TYPE_CHECKING:
    from starfish_outbox.conformance.sides import Step

_LONGEST: Final = 300
_LONGEST_TEXT: Final = 3000
"""Characters of a value, and of a stored text, that are shown."""

_STATUSES: Final = ("queued", "sending", "failed")
_MARKS: Final = ("maybeSent", "lastError", "nextAttemptAt", "replacement")
_SPECIAL: Final = {"hold": "opens the queue and keeps it", "let go": "closes it"}

# The colours of the page around it, and greys that are seen on white and on black: front ends do not tell which it is.
# Classes are said twice to win over what notebooks say of all tables.
_STYLE: Final = """<style>
.two-languages {font-size: 13px; line-height: 1.5; max-width: 78em; overflow-x: auto}
.two-languages.two-languages table {border-collapse: collapse; table-layout: fixed; width: 100%; min-width: 46em;
  margin: 0; border: 0; font-size: inherit; color: inherit}
.two-languages.two-languages caption {caption-side: top; text-align: left; padding: 0 0 .4em; color: inherit}
.two-languages.two-languages tr:is(tr, :hover, :nth-child(odd), :nth-child(even)) {background: transparent}
.two-languages.two-languages :is(th, td) {border: 0; border-top: 1px solid rgba(128, 128, 128, .3); color: inherit;
  font-weight: inherit; line-height: 1.5; max-width: none; padding: .55em .8em; text-align: left; vertical-align: top;
  white-space: normal; overflow-wrap: anywhere}
.two-languages.two-languages thead th {border-top: 0; font-weight: 600}
.two-languages.two-languages tfoot td {border-top: 1px solid rgba(128, 128, 128, .6)}
.two-languages.two-languages :is(th, td):first-child {width: 1.4em; opacity: .6; text-align: right}
.two-languages.two-languages :is(th, td):nth-child(3) {background: rgba(128, 128, 128, .1)}
.two-languages.two-languages :is(p, ul) {margin: 0; padding: 0}
.two-languages.two-languages li {list-style: none; margin: 0 0 .35em}
.two-languages.two-languages code {background: none; border: 0; color: inherit; font-size: 12px; padding: 0;
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; unicode-bidi: isolate;
  white-space: pre-wrap; overflow-wrap: anywhere}
.two-languages.two-languages summary {cursor: pointer}
.two-languages.two-languages p.refused {border-left: 3px solid #dc4040; margin-top: .2em; padding-left: .6em}
.two-languages .quiet {opacity: .65}
.two-languages .status {border-bottom: 2px solid gray}
.two-languages .queued {border-color: #3b82f6}
.two-languages .sending {border-color: #d99a06}
.two-languages .failed {border-color: #dc4040}
</style>"""


def page_of(steps: Sequence[Step], title: str = "") -> str:
    """The steps as HTML; with a title, what each side read last stands at the end."""
    rows = "".join(_row(step, before) for step, before in zip(steps, (None, *steps), strict=False))
    if not rows:
        rows = '<tr><td></td><td colspan="3" class="quiet">nothing was done yet</td></tr>'
    caption = f"<caption>{_code(title)}</caption>" if title else ""
    foot = _foot(steps) if title else ""
    return (
        f'{_STYLE}<div class="two-languages"><table>{caption}'
        '<thead><tr><th scope="col"></th><th scope="col">Python</th><th scope="col">stored afterwards</th>'
        f'<th scope="col">TypeScript</th></tr></thead><tbody>{rows}</tbody>{foot}</table></div>'
    )


def _row(step: Step, before: Step | None) -> str:
    cells = {step.side: _deed(step)}
    if before is not None and before.text == step.text:
        stored = '<span class="quiet">as before</span>'
    else:
        stored = _stored(step.text)
    return (
        f"<tr><td>{step.number}</td><td>{cells.get('python', '')}</td><td>{stored}</td>"
        f"<td>{cells.get('typescript', '')}</td></tr>"
    )


def _deed(step: Step) -> str:
    if step.op in _SPECIAL:
        said = f"<p>{_SPECIAL[step.op]}</p>"
    else:
        said = f"<p><b>{_shown(step.op)}</b></p>"
        said += "".join(f"<p>{_shown(name)} {_code(_spelled(value))}</p>" for name, value in step.arguments.items())
    if step.error is not None:
        said += f'<p class="refused"><b>{_shown(step.error.name)}</b> {_shown(step.error.message, _LONGEST_TEXT)}</p>'
    elif step.op not in _SPECIAL:
        said += f'<p><span class="quiet">→</span> {_shown(step.outcome)}</p>'
    return said + (_entries(step.value) if isinstance(step.value, list) else "")


def _stored(text: str | None) -> str:
    if text is None:
        return '<span class="quiet">nothing</span>'
    try:
        entries = decode(text)
    except DamagedText:
        entries = None
    if not isinstance(entries, list):
        return _code(text, _LONGEST_TEXT)
    return f"{_entries(entries)}<details><summary>text</summary>{_code(text, _LONGEST_TEXT)}</details>"


def _entries(entries: Iterable[Any]) -> str:
    lines = "".join(f"<li>{_entry(entry)}</li>" for entry in entries)
    return f"<ul>{lines}</ul>" if lines else '<span class="quiet">no entries</span>'


def _entry(entry: Any) -> str:
    if not isinstance(entry, dict):
        return _code(encode_foreign(entry))
    status, attempts = (entry.get(name) for name in ("status", "attempts"))
    words = [
        _code(encode_foreign(entry.get("id"))),
        f'<span class="status {status if status in _STATUSES else ""}">{_shown(str(status))}</span>',
        f"attempts {_shown(encode_foreign(attempts))}" if attempts else "",
        *(f'<span class="quiet">{name}</span>' for name in _MARKS if name in entry),
    ]
    return f"{' '.join(filter(None, words))}<br>{_code(encode_foreign(entry.get('item')))}"


def _foot(steps: Sequence[Step]) -> str:
    last: dict[str, Step] = {step.side: step for step in steps if step.entries is not None}
    cells = {
        side: f'<p class="quiet">read last, in step {one.number}:</p>{_entries(one.entries or ())}'
        for side, one in last.items()
    }
    return (
        f"<tfoot><tr><td></td><td>{cells.get('python', '')}</td><td>{_verdict(steps, last)}</td>"
        f"<td>{cells.get('typescript', '')}</td></tr></tfoot>"
    )


def _verdict(steps: Sequence[Step], last: Mapping[str, Step]) -> str:
    stored = steps[-1].text if steps else None
    behind = [one.language for one in last.values() if one.text != stored]
    if len(last) < 2:
        return '<span class="quiet">one side has not read it yet</span>'
    if behind:
        return f'<span class="quiet">changed since {_shown(" and ".join(behind))} read it</span>'
    python, typescript = (json.dumps(last[side].entries, sort_keys=True) for side in ("python", "typescript"))
    return "<b>both read the same</b>" if python == typescript else "<b>they read it differently</b>"


def _spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _code(text: str, longest: int = _LONGEST) -> str:
    return f"<code>{_shown(text, longest)}</code>"


def _shown(text: str, longest: int = _LONGEST) -> str:
    """The text as HTML, cut; half a surrogate pair, which is no UTF-8, as an escape."""
    cut = text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"
    return escape(cut.encode("utf-8", "backslashreplace").decode("utf-8"))
