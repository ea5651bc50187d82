"""What a document says comes through Markdown unharmed: read back by a Markdown parser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

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
    plain,
    show,
    to_markdown,
    write_result,
)
from depo.report.plots import new_figure

NASTY = [
    "a_b and _c_ and *d* and **e**",
    "1|2 ~~not~~ `code` \\ \\* &amp; &lt;",
    "<b>bold</b> <!-- gone --> 3 < 4",
    "[text](link) ![picture](x.png) 0.4 [0.3, 0.5]",
    "- no list",
    "# no heading",
    "12. no list",
    "1) no list",
    "> no quote",
    "+0.25 [−0.1, 0.6]",
]


def parsed(*blocks: object) -> list[SyntaxTreeNode]:
    """The blocks that a reader of GitHub sees, without the document's title."""
    markdown = to_markdown(Document("Title", blocks), "stem")
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown))
    title, *rest = tree.children
    assert (title.tag, shown(title)) == ("h1", "Title")
    return rest


def shown(node: SyntaxTreeNode) -> str:
    """The text of a node, as it is read."""
    if node.type in ("text", "code_inline", "fence"):
        return node.content
    return "".join(shown(child) for child in node.children)


@pytest.mark.parametrize("text", NASTY)
def test_text_is_never_taken_for_markup(text: str):
    paragraph, bullets, table = parsed(Paragraph(text), Bullets([text]), Table([text], [[text]]))
    assert (paragraph.type, bullets.type, table.type) == ("paragraph", "bullet_list", "table")
    assert shown(paragraph) == text
    assert [item.children[0].type for item in bullets.children] == ["paragraph"]
    assert shown(bullets) == text
    assert shown(table) == text + text
    kinds = {node.type for block in (paragraph, bullets, table) for node in block.walk()}
    assert not kinds & {"em", "strong", "s", "code_inline", "html_inline", "link", "image"}


def test_markup_is_that_of_the_types():
    (paragraph,) = parsed(Paragraph(("a ", Code("b|`c`"), " ", Strong("d*"), " ", Number(0.5))))
    (line,) = paragraph.children
    assert [(node.type, shown(node)) for node in line.children] == [
        ("text", "a "),
        ("code_inline", "b|`c`"),
        ("text", " "),
        ("strong", "d*"),
        ("text", " 0.500"),
    ]
    (table,) = parsed(Table([Code("a|b")], [[("x ", Strong("y|z"))]]))
    assert [shown(cell) for cell in table.walk() if cell.type in ("th", "td")] == ["a|b", "x y|z"]


def test_sections_nest_and_figures_stand_beside_the_document():
    found = parsed(
        Section("One", [Figure("loss", "the loss", new_figure), Section("Deep", [Paragraph("text")])]),
        Section("Two", [Figure("", "all", new_figure)]),
    )
    assert [node.tag for node in found] == ["h2", "p", "h3", "p", "h2", "p"]
    pictures = [node for block in found for node in block.walk() if node.type == "image"]
    assert [(one.attrs["src"], one.content) for one in pictures] == [
        ("stem_loss.png", "the loss"),
        ("stem.png", "all"),
    ]


def test_a_table_has_its_caption_and_numbers_to_the_right():
    caption, table = parsed(Table(["a", "b"], [["x", Number(1)], ["y", Number(None)]], "Of all:"))
    assert shown(caption) == "Of all:"
    cells = [cell for cell in table.walk() if cell.type == "td"]
    assert [cell.attrs.get("style") for cell in cells] == [None, "text-align:right"] * 2
    with pytest.raises(ValueError, match="a row of 1 cells under a head of 2"):
        Table(["a", "b"], [["x"]])


def test_a_code_block_ends_where_its_text_does():
    code, after = parsed(CodeBlock("one\n```\n*two*\n```"), Paragraph("after"))
    assert code.type == "fence"
    assert code.content == "one\n```\n*two*\n```\n"
    assert shown(after) == "after"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(0.4123, ".3f", 0.39, 0.434), "0.412 [0.390, 0.434]"),
        (Number(0.4123, ".1%", 0.39, 0.434), "41.2% [39.0%, 43.4%]"),
        (Number(0.25, "+.2f", -0.1, 0.6), "+0.25 [-0.10, +0.60]"),
        (Number(12345, ","), "12,345"),
        (Number(0.5, ".1f", None, None), "0.5"),
        (Number(0.5, ".1f", 0.1, float("nan")), "0.5"),
        (Number(None), "–"),
        (Number(float("nan"), ".1f", 0.1, 0.2), "–"),
        (Number.of([0.5, 0.4, 0.6], ".1f"), "0.5 [0.4, 0.6]"),
        (Number.of([None, None, None]), "–"),
        (Number.of(None), "–"),
    ],
)
def test_a_number_shows_its_interval_where_it_has_one(number: Number, text: str):
    assert str(number) == text
    assert plain(("x ", number)) == f"x {text}"


def test_a_terminal_gets_plain_text_without_markup(capsys):
    show(
        Table(["name", "value"], [["a|b", Number(2, ".1f")]], "Caption"),
        Paragraph(("text ", Code("code"))),
        Bullets(["one"]),
        Figure("x", "picture", new_figure),
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["Caption"], ["name", "value"], ["a|b", "2.0"], [], ["text", "code"], ["-", "one"]]


def test_a_result_is_stored_with_its_report_and_pictures(tmp_path: Path):
    result = {"kind": "sums", "provenance": {}, "value": 0.25}

    def report(stored):
        figure = Figure("bar", "a bar", lambda: new_figure(2, 2))
        return Document("Sums", [Paragraph(("value ", Number(stored["value"]))), figure])

    json_file, markdown = write_result(result, tmp_path / "deep/sums.json", report)
    assert json.loads(json_file.read_text()) == result
    assert markdown.read_text() == to_markdown(report(result), "sums")
    names = {path.name for path in (tmp_path / "deep").iterdir()}
    assert names == {"sums.json", "sums.md", "sums_bar.png", "sums_bar.svg"}
    before = (tmp_path / "deep/sums_bar.png").read_bytes()
    assert before.startswith(b"\x89PNG")
    write_result(result, tmp_path / "deep/sums.json", report)
    assert (tmp_path / "deep/sums_bar.png").read_bytes() == before
