"""What a document says comes through HTML unharmed: read back by an HTML parser."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from depo.report.document import (
    Bullets,
    Code,
    CodeBlock,
    Document,
    Figure,
    Number,
    Paragraph,
    Section,
    Strong,
    Table,
)
from depo.report.html import to_html
from depo.report.plots import new_figure

NASTY = [
    "a_b *c* `d` \\ &amp; &lt;",
    "<b>bold</b> <!-- gone --> 3 < 4",
    "</p></main><script>alert(1)</script>",
]


class Nodes(HTMLParser):
    """(path of tags, text) in order; pictures as (path, source)."""

    def __init__(self, *blocks: object) -> None:
        super().__init__()
        self.path: list[str] = []
        self.found: list[tuple[str, str]] = []
        self.feed(to_html(Document("Title", blocks)).partition("<main>")[2].partition("</main>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append((tag, str(dict(attrs)["src"])))
        else:
            self.path.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.path.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.path:
            self.found.append((self.path[-1], data))


@pytest.mark.parametrize("text", NASTY)
def test_text_is_text(text: str) -> None:
    blocks = [Paragraph(text), Bullets([text]), CodeBlock(text), Paragraph([Code(text), Strong(text)])]
    assert Nodes(*blocks).found == [
        ("h1", "Title"),
        ("p", text),
        ("li", text),
        ("code", text),
        ("code", text),
        ("strong", text),
    ]


def test_sections_nest_and_numbers_have_their_interval() -> None:
    table = Table(["name", "value"], [["a", Number(0.5, ".2f", 0.25, 0.75)], ["b", Number(None)]], "Caption:")
    found = Nodes(Section("Part", [Section("Sub", [table])])).found
    assert found == [
        ("h1", "Title"),
        ("h2", "Part"),
        ("h3", "Sub"),
        ("caption", "Caption:"),
        ("th", "name"),
        ("th", "value"),
        ("td", "a"),
        ("td", "0.50 "),
        ("small", "[0.25, 0.75]"),
        ("td", "b"),
        ("td", "–"),
    ]


def test_a_picture_is_inside() -> None:
    figure = Figure("", "what it shows", lambda: new_figure(1, 1))
    ((_, _), (tag, source)) = Nodes(figure).found
    assert tag == "img"
    assert source.startswith("data:image/svg+xml;base64,")
