"""HTML in which every text is escaped where it is put in, and what nobody would see is spelled out.

No script, nothing from outside; the styles stand in each card and are about cards alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final, TypeAlias

from starfish_outbox.showing import printable

# One colour for light and one for dark pages: as the system has it, unless the front end says which it shows.
# The class is said three times to win over what front ends say of all tables.
STYLE: Final = """<style>
.starfish-outbox { color-scheme: light dark;
  --card: light-dark(#ffffff, #1b1f25); --ink: light-dark(#1f2630, #e3e6ea); --soft: light-dark(#5a6472, #9fa9b6);
  --line: light-dark(#dfe2e7, #343b45); --wash: light-dark(#f1f3f5, #262c34);
  --alarm: light-dark(#fdeade, #43260f); --alarm-ink: light-dark(#8f3608, #f6b183);
  --busy: light-dark(#e4eefb, #1b2f4b); --busy-ink: light-dark(#1d4c91, #a9c8f5);
  --fine: light-dark(#e5f3e9, #17301f); --fine-ink: light-dark(#1c6438, #8fd6a8) }
:is([data-jp-theme-light="true"], .vscode-light) .starfish-outbox { color-scheme: light }
:is([data-jp-theme-light="false"], .vscode-dark, .vscode-high-contrast) .starfish-outbox { color-scheme: dark }
.starfish-outbox.starfish-outbox.starfish-outbox {
  & { background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px;
    max-width: 68em; box-sizing: border-box; overflow: hidden; overflow-wrap: anywhere; text-align: left;
    font: 13px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif }
  & :is(p, dl, dd, ul) { margin: 0; padding: 0 }
  & header { display: flex; flex-wrap: wrap; gap: 4px 10px; align-items: baseline; margin-bottom: 6px }
  & header strong { font-size: 15px; font-weight: 600 }
  & .chip { border-radius: 9px; padding: 0 8px; background: var(--wash); color: var(--ink) }
  & .failed, & .alarm { background: var(--alarm); color: var(--alarm-ink) }
  & .sending { background: var(--busy); color: var(--busy-ink) }
  & .fine { background: var(--fine); color: var(--fine-ink) }
  & dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 1px 14px }
  & :is(dt, dd) { float: none; width: auto }
  & dt { color: var(--soft); font-weight: normal; margin: 0; white-space: nowrap }
  & ul.alarm { border-radius: 6px; list-style: none; margin-top: 8px; padding: 4px 10px }
  & li { margin: 0 }
  & table { border-collapse: collapse; border: 0; width: 100%; table-layout: auto; margin: 8px 0 0; color: inherit;
    font-size: inherit }
  & caption { caption-side: top; color: var(--soft); padding: 0 0 3px; text-align: left }
  & tr { background: none }
  & :is(th, td) { background: none; border: 0; border-top: 1px solid var(--line); color: inherit; font-weight: normal;
    line-height: inherit; max-width: none; padding: 3px 12px 3px 0; text-align: left; vertical-align: top;
    white-space: normal }
  & thead th { border-top: 0; color: var(--soft) }
  & :is(th, td):last-child { padding-right: 0 }
  & .short { white-space: nowrap; overflow-wrap: normal; width: 1% }
  & .name { min-width: 9em }
  & .status { min-width: 5.5em }
  & .rest { max-width: 0; width: 58% }
  & .line { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
  & .line .value { white-space: pre }
  & .number { text-align: right; font-variant-numeric: tabular-nums }
  & .value { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 12px;
    unicode-bidi: isolate; white-space: pre-wrap }
  & .soft { color: var(--soft) }
  & footer { color: var(--soft); margin-top: 6px }
}
</style>"""


class Html(str):
    """Text that is markup already: made by `tag` and `joined` alone."""

    __slots__ = ()


Content: TypeAlias = "str | Html | None"
"""What can stand in an element: markup, or a text, which is escaped; None: nothing."""


def cut(text: str, most: int) -> str:
    """The text as it can be shown, in at most so many characters; the last one says that it was cut."""
    shown = printable(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def tag(name: str, *contents: Content, **attributes: str) -> Html:
    """An element. ``class_`` is the attribute ``class``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"' for key, value in attributes.items() if value
    )
    return Html(f"<{name}{given}>{joined(contents)}</{name}>")


def joined(contents: Iterable[Content]) -> Html:
    """One after the other, nothing between them."""
    return Html("".join(one if isinstance(one, Html) else _escaped(one) for one in contents if one is not None))


def value(text: str, most: int) -> Html:
    """Somebody's text, which may be long, or run from right to left."""
    return tag("span", cut(text, most), class_="value")


def facts(pairs: Iterable[tuple[str, Content]]) -> Html | None:
    """Names and what is known; pairs that say nothing are left out."""
    known = [(name, what) for name, what in pairs if what]
    return tag("dl", *(joined((tag("dt", name), tag("dd", what))) for name, what in known)) if known else None


def table(caption: str, heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[Content]]) -> Html:
    """A table.

    Args:
        caption: what it holds.
        heads: of each column its name and its class: ``name``, ``status``, ``number``, ``short`` (never broken),
            ``rest`` (most of the width) or none.
        rows: their cells; the first says whose row it is.
    """
    head = tag("tr", *(tag("th", name, class_=kind, scope="col") for name, kind in heads))
    body = [
        tag("tr", *(tag("td", cell, class_=kind) for cell, (_, kind) in zip(row, heads, strict=True))) for row in rows
    ]
    return tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))


def alarm(lines: Sequence[object], most: int = 3) -> Html | None:
    """What needs a person; the first few of many."""
    if not lines:
        return None
    more = [tag("li", f"… and {len(lines) - most:,} more")] if len(lines) > most else []
    return tag("ul", *(tag("li", cut(str(line), 300)) for line in lines[:most]), *more, class_="alarm")


def card(title: Content, chips: Iterable[tuple[str, str]], *parts: Content, foot: str = "") -> str:
    """One card.

    Args:
        title: what it is about.
        chips: short words beside it, and the class of each: ``failed``, ``sending``, ``fine`` or none.
        parts: what stands below.
        foot: small print.
    """
    said = (tag("span", word, class_=f"chip {kind}".rstrip()) for word, kind in chips)
    header = tag("header", tag("strong", title), *said)
    footer = tag("footer", foot) if foot else None
    return STYLE + tag("section", header, *parts, footer, class_="starfish-outbox")


def _escaped(text: str) -> str:
    """The text as content of an element or as the value of an attribute."""
    return escape(printable(text))
