"""Cards: what a notebook shows of our objects, in words, in HTML, and in a real browser where every text attacks."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from IPython.core.formatters import DisplayFormatter
from playwright.async_api import Browser

from starfish_outbox import DrainResult, MemoryCache, OutboxEntry, OutboxQueue, codec, keep_draining
from starfish_outbox.drawing import Drawn
from starfish_outbox.entry import LastError, StoredEntry
from starfish_outbox.knowing import Explanation, Happened, History, QueueStatus
from starfish_outbox.notebook import cards, page
from starfish_outbox.notebook.frames import Enqueued, Requeued
from starfish_outbox.notebook.frames_in import BadRow
from starfish_outbox.showing import printable
from starfish_outbox.state import Counts
from tests import conformance_reports
from tests.browser import chromium, opened as opened_page
from tests.conftest import KEY, ManualClock, Opener, PlainCache
from tests.markup import CONTRASTS, FRAGMENTS, SHAPES, SHAPES_IN, STICKS_OUT, hostile_texts

NUMBER: Final = 5_000
IN_ONE_PAGE: Final = 500
PRIVATE: Final = "private-word"
CARD: Final = ".starfish-outbox"
AXE: Final = Path(__file__).parents[1] / "interop" / "node_modules" / "axe-core" / "axe.min.js"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


class TextCache(PlainCache):
    """A cache whose place and promise are any text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.durability = text

    def __repr__(self) -> str:
        return self.durability


async def queue_of(texts: list[str]) -> OutboxQueue[Any]:
    """A queue in which each text is an id, an item, its key and an error; another program wrote them."""
    cache = TextCache(texts[0])
    error = {"type": "", "message": "", "at": 1_700_000_000_000}
    entries = []
    for number, text in enumerate(texts):
        entry = {"id": text, "item": {text: [text]}, "status": "failed" if number else text, "attempts": 1, text: text}
        told = error | {"type": text, "message": text}
        entries.append(entry | {"enqueuedAt": 1_700_000_000_000, "lastError": told})
    cache.texts[KEY] = json.dumps(entries)
    queue = OutboxQueue[Any](cache, clock=ManualClock())
    await queue.hydrate(KEY)
    return queue


def others(text: str) -> list[Drawn | Explanation]:
    """Everything else that is drawn, with the text wherever there can be one."""
    error = LastError(text, text, 1_700_000_000_000)
    entry = OutboxEntry(
        text,
        {text: text},
        text,
        1,
        1,
        last_error=error,
        extra={text: text},
        replacement=OutboxEntry[Any](text, text, "", 0, 2),
    )
    draining = keep_draining(OutboxQueue(MemoryCache()), lambda _: None)
    draining.pause(text)
    bad = BadRow(1, text, text, text)
    return [
        entry,
        QueueStatus(text, Counts(1, 1, 1, 1), 1.0, 5, text, text, (text,) * 5, (text,) * 5, error, text),
        DrainResult(1, 1, "offline", left=2, reason=text),
        draining,
        Explanation(text, "failed", text),
        History([Happened(1, "enqueued"), Happened(2, "failed", text), Happened(3, "sent", {text: text})]),
        Enqueued((text,), (text,), 1, (bad,)),
        Requeued((text,), (text,), (bad,)),
    ]


def html_of(things: Iterable[Any]) -> str:
    return "".join(f'<div class="one">{thing._repr_html_().removeprefix(page.STYLE)}</div>' for thing in things)


def written(folder: Path, body: str, style: str = page.STYLE, attributes: str = "") -> str:
    path = folder / "page.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><title>cards</title>{style}<body {attributes}>{body}")
    return path.as_uri()


async def all_cards(text: str) -> list[Any]:
    empty = OutboxQueue[Any](MemoryCache(), clock=ManualClock())
    await empty.hydrate(KEY)
    queues = [await queue_of([text] + [f"{text}{n}" for n in range(11)]), OutboxQueue(TextCache(text)), empty]
    return [*queues, *others(text), conformance_reports.one_of_each()]


@pytest.mark.parametrize("text", ["plain", "two\nlines\u2028\u202e\x00\x1b[31m", "\ud83d", "x" * 10_000])
async def test_everything_has_a_line_and_a_card(text: str) -> None:
    for thing in await all_cards(text):
        assert len(repr(thing).splitlines()) == 1, thing
        assert "\x1b" not in f"{thing!r}{thing!s}"
        html = thing._repr_html_()
        assert html.isprintable() or set(filter(lambda one: not one.isprintable(), html)) == {"\n"}
        assert "<script" not in html
        assert not re.search(r"(href|src|url\(|@import|on\w+=)", html)


async def test_ipython_shows_the_card_and_the_line(opened: Opener) -> None:
    queue = await opened(MemoryCache())
    await queue.enqueue("a", 1)
    formatter: Any = DisplayFormatter()
    shown, _ = formatter.format(queue)
    assert shown["text/plain"] == repr(queue)
    assert shown["text/html"] == queue._repr_html_()
    for thing in (queue.get()[0], queue.status(), await queue.explain("a"), await queue.history("a")):
        shown, _ = formatter.format(thing)
        assert "<section" in shown["text/html"]


async def test_what_can_be_drawn_is_otherwise_what_it_was(opened: Opener) -> None:
    entry = OutboxEntry("a", {"x": 1}, "queued", 0, 5)
    assert entry == OutboxEntry("a", {"x": 1}, "queued", 0, 5, maybe_sent_ms=7)
    assert list(entry.to_dict()) == ["id", "item", "status", "attempts", "enqueuedAt"]
    result = DrainResult(1, 2, "offline", left=3)
    assert repr(result) == "DrainResult(sent=1, failed=2, stopped='offline', left=3)"
    assert eval(repr(result)) == DrainResult(1, 2)
    history = History([Happened(1, "enqueued")])
    assert history == [Happened(1, "enqueued")]
    for thing in (entry, result, history, Explanation("a", "queued", "r"), QueueStatus("k", Counts(), None, 0, "", "")):
        again = pickle.loads(pickle.dumps(thing))
        assert again == thing
        assert type(again) is type(thing)
        assert again._repr_html_() == thing._repr_html_()


def test_nothing_of_the_notebook_is_imported_until_something_is_drawn() -> None:
    program = """
import sys
from starfish_outbox import DrainResult, OutboxEntry, OutboxQueue, drain_outbox, keep_draining, open_outbox
assert not [name for name in sys.modules if name.startswith("starfish_outbox.notebook")]
html = DrainResult(1, 0)._repr_html_()
assert "1 sent" in html and "starfish_outbox.notebook.cards" in sys.modules
print(sorted({"pandas", "numpy", "ipywidgets", "anywidget", "IPython", "rich"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_a_card_decodes_the_items_that_it_shows_and_no_others(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await opened(MemoryCache())
    await queue.enqueue_many((f"id-{number:06}", {"n": number}) for number in range(100_000))
    decoded: list[str | None] = []
    real = codec.public

    def noted(entry: StoredEntry) -> OutboxEntry[Any]:
        decoded.append(entry.id)
        return real(entry)

    monkeypatch.setattr(codec, "public", noted)
    html = queue._repr_html_()
    assert len(decoded) == cards.ROWS == html.count("<tr>") - 1
    assert decoded[-1] == "id-000009"
    assert "… and 99,990 more" in html
    assert len(html) < 20_000
    queue.page(offset=99_995)
    assert len(decoded) == cards.ROWS + 5


async def test_a_card_says_what_a_person_wants_to_know(opened: Opener, clock: ManualClock) -> None:
    cache = TextCache("a drawer")
    cache.texts[KEY] = '[{"id":"x","item":1,"status":"paused","attempts":0,"enqueuedAt":1000}, 5, {"id": 7, "item": 1}]'
    queue = await opened(cache)
    await queue.enqueue("a", {"t": 1}, ts=clock.now_ms - 11_520_000)
    await queue.enqueue("b", 1)
    await queue.claim("b")
    await queue.mark_failed("a")
    html = queue._repr_html_()
    for said in (
        KEY,
        "1 sending",
        "1 failed",
        "2 other",
        "a drawer",
        "set aside: ",
        "never drained",
        "claimed by this",
    ):
        assert said in html, said
    assert "3 h 12 min" in html
    assert "as of 2023-11-14 22:13:20 UTC" in html


def test_an_item_is_shown_in_eighty_characters_at_most() -> None:
    odd: list[Any] = [{"k": "v" * n} for n in range(60, 90)] + [[[[]] * 50] * 50, "\u202e" * 80, 1e300, {"\x00": None}]
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    circle: list[Any] = []
    circle.append(circle)
    for item in [*odd, deep, circle, object(), {(1, 2): 3}, float("nan"), *hostile_texts(300)]:
        shown = cards.preview(item)
        assert 0 < len(shown) <= cards.PREVIEW, item
        assert shown.isprintable()
    assert cards.preview(deep) == "[" * (cards.PREVIEW - 1) + "…"  # no further than what is shown
    assert cards.preview({"k": "v" * 71}).endswith('"}')
    assert cards.preview({"k": "v" * 72 + "w"}).endswith("v…")


async def test_items_are_not_shown_where_that_is_switched_off(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_SAID", {})
    queue = await opened(MemoryCache())
    await queue.enqueue("a", {"secret": PRIVATE})
    receipt = History([Happened(1, "sent", {"answer": PRIVATE})])

    def seen() -> list[bool]:
        return [PRIVATE in thing._repr_html_() for thing in (queue, queue.get()[0], receipt)]

    assert seen() == [True] * 3
    assert PRIVATE not in f"{queue!r}{queue.get()!r}"
    monkeypatch.setenv("STARFISH_OUTBOX_PREVIEWS", "0")
    assert seen() == [False] * 3
    assert cards.previews() is False
    cards.previews(True)
    assert seen() == [True] * 3
    cards.previews(False)
    assert seen() == [False] * 3


def test_every_text_is_escaped_in_elements_and_attributes() -> None:
    odd = "\u202e<b>&\"'"
    said = "\\u202e&lt;b&gt;&amp;&quot;&#x27;"
    assert page.tag("p", odd, page.tag("i", odd), None, class_=odd) == f'<p class="{said}">{said}<i>{said}</i></p>'


def test_what_is_none_of_ours_has_no_card() -> None:
    class DrainResult:
        pass

    with pytest.raises(TypeError, match="no card for DrainResult"):
        cards.card(DrainResult())


async def shapes(browser: Browser, folder: Path, things: Iterable[Any]) -> tuple[list[str], list[str]]:
    """The structure of each card; and what the page asked for or complained about."""
    hidden = "<style>.one { display: none }</style>"  # parsed and loaded as ever, but not laid out
    url = written(folder, html_of(things), hidden)
    async with opened_page(browser, url) as watched:
        found = await watched.page.evaluate(SHAPES)
        title = await watched.page.title()
        return found, [*watched.requests[1:], *watched.problems, *[title] * (title != "cards")]


@pytest.mark.asyncio(loop_scope="module")
async def test_no_text_changes_the_structure_of_a_card(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = hostile_texts(NUMBER)
    assert len(set(texts)) == NUMBER
    harmless = [await queue_of([f"word{n}" for n in range(10)]), *others("word")]
    wanted, none = await shapes(browser, tmp_path, harmless)
    assert none == []
    changed = seen = 0
    for start in range(0, NUMBER, IN_ONE_PAGE):  # the first ones in every kind of card, the rest in three
        some = texts[start : start + IN_ONE_PAGE]
        tens = [some[at : at + 10] for at in range(0, len(some), 10)]
        kinds = 2 if start else len(wanted) - 1
        hostile = [await queue_of(ten) for ten in tens] + [thing for text in some for thing in others(text)[:kinds]]
        expected = wanted[:1] * len(tens) + wanted[1 : kinds + 1] * len(some)
        found, troubles = await shapes(browser, tmp_path, hostile)
        assert troubles == []
        assert len(found) == len(expected)
        changed += sum(one != other for one, other in zip(found, expected, strict=True))
        seen += len(found)
    with monkeypatch.context() as patch:
        patch.setattr(page, "_escaped", printable)
        unescaped = [html_of(others(text)) for text in FRAGMENTS]
    async with opened_page(browser, written(tmp_path, "")) as watched:
        broken = sum([await watched.page.evaluate(SHAPES_IN, html) != wanted[1:] for html in unescaped])
        assert await watched.page.evaluate(SHAPES_IN, html_of(harmless)) == wanted
    print(f"{NUMBER} texts, {seen} cards, {changed} changed; without escaping {broken} of {len(FRAGMENTS)} texts do")
    assert changed == 0
    assert broken > 10


@pytest.mark.asyncio(loop_scope="module")
async def test_a_text_is_seen_as_it_is(browser: Browser, tmp_path: Path) -> None:
    texts = hostile_texts(400, seed=8)
    queues = [await queue_of(texts[at : at + 10]) for at in range(0, len(texts), 10)]
    async with opened_page(browser, written(tmp_path, html_of(queues))) as watched:
        seen = await watched.page.locator("td.name").all_text_contents()
    assert seen == [page.cut(text, 100) for text in texts]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "theme", ["", 'data-jp-theme-light="true"', 'data-jp-theme-light="false"', "class=vscode-dark"]
)
async def test_every_text_can_be_read(browser: Browser, tmp_path: Path, scheme: str, theme: str) -> None:
    body = html_of(await all_cards("word"))
    dark = scheme == "dark" if not theme else theme != 'data-jp-theme-light="true"'
    async with opened_page(browser, written(tmp_path, body, attributes=theme), color_scheme=scheme) as watched:
        found = await watched.page.evaluate(CONTRASTS, CARD)
        least = min(found, key=lambda one: one["ratio"])
        print(f"{scheme} {theme}: {len(found)} texts, least contrast {least['ratio']:.2f} ({least['what']})")
        assert len(found) > 150
        assert least["ratio"] >= 4.5, least
        ground = await watched.page.locator(CARD).first.evaluate("one => getComputedStyle(one).backgroundColor")
        assert (ground == "rgb(27, 31, 37)") is dark
    pale = page.STYLE.replace("--soft: light-dark(#5a6472, #9fa9b6)", "--soft: light-dark(#a0a8b4, #5a6472)")
    async with opened_page(browser, written(tmp_path, body, pale, theme), color_scheme=scheme) as watched:
        found = await watched.page.evaluate(CONTRASTS, CARD)
        assert min(one["ratio"] for one in found) < 4.5


@pytest.mark.asyncio(loop_scope="module")
async def test_an_automated_checker_finds_nothing(browser: Browser, tmp_path: Path) -> None:
    body = html_of(await all_cards("word"))
    for html, fine in ((body, True), (body.replace('class="chip', 'role="nosuch" class="chip'), False)):
        async with opened_page(browser, written(tmp_path, html)) as watched:
            await watched.page.add_script_tag(path=AXE)
            found = await watched.page.evaluate("card => axe.run(card, {resultTypes: ['violations']})", CARD)
            assert (found["violations"] == []) is fine, found["violations"]
            assert len(found["passes"]) > 5


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_sticks_out_of_a_narrow_card(browser: Browser, tmp_path: Path) -> None:
    texts = ["W" * 5_000, "漢" * 5_000, "a" * 30 + "\u202e" * 99, *hostile_texts(30, seed=9)]
    body = html_of([thing for text in texts for thing in await all_cards(text)])
    unbroken = page.STYLE.replace("overflow-wrap: anywhere", "")
    found = {}
    for name, style in (("ours", page.STYLE), ("unbroken", unbroken)):
        options = {"viewport": {"width": 600, "height": 900}}
        async with opened_page(browser, written(tmp_path, body, style), **options) as watched:
            found[name] = await watched.page.evaluate(STICKS_OUT, [CARD, ".line"])
            if name == "ours":
                assert await watched.page.evaluate("document.documentElement.scrollWidth") == 600
    assert found["ours"] == []
    assert found["unbroken"]
