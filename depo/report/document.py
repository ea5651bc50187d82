"""A document model: what a report says. Renderers decide how it looks.

A result is JSON, ``{"kind": …, "provenance": …}``. A function beside the code that measured it turns the
result into a `Document`. `write_result` stores the result, and beside it the document as Markdown with its
pictures. Text is plain: markup is said by a type (`Code`, `Strong`), never by characters. A measured value is
a `Number` with its interval. `show` prints a table on the terminal.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.errors import fitted
from depo.files import write_json, write_text
from depo.report.plots import FORMATS, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

UNKNOWN = "–"


# ---------------------------------------------------------------- text


@dataclass(frozen=True)
class Code:
    """A name or a value as it stands in code, within a line."""

    text: str


@dataclass(frozen=True)
class Strong:
    text: str


@dataclass(frozen=True)
class Number:
    """A measured value, with its interval where there is one. None and NaN are unknown. ``form`` is Python's
    format specification (".3f", "+.1%", ",")."""

    value: float | None
    form: str = ".3f"
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[float | None] | None, form: str = ".3f") -> Number:
        """From [value, low, high], as results store it; None is unknown."""
        value, low, high = values or (None, None, None)
        return cls(value, form, low, high)

    def __str__(self) -> str:
        """``0.412 [0.390, 0.434]``"""
        if not known(self.value):
            return UNKNOWN
        shown = f"{self.value:{self.form}}"
        if known(self.low) and known(self.high):
            shown += f" [{self.low:{self.form}}, {self.high:{self.form}}]"
        return shown


def known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


Span = str | Code | Strong | Number
Text = Span | Sequence[Span]
"""Spans follow each other without a space between them."""


def spans(text: Text) -> Sequence[Span]:
    return (text,) if isinstance(text, Span) else text


def plain(text: Text) -> str:
    """The text without markup."""
    return "".join(str(span) if isinstance(span, str | Number) else span.text for span in spans(text))


# ---------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Text]


@dataclass(frozen=True)
class CodeBlock:
    """Lines shown as they are: a command, the end of a log."""

    text: str


@dataclass(frozen=True)
class Table:
    """``rows`` have as many cells as ``head``."""

    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    caption: Text = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.head):
                raise ValueError(f"a row of {len(row)} cells under a head of {len(self.head)}: {row}")

    def numeric(self) -> list[bool]:
        """Whether a column holds numbers alone. Renderers align such a column to the right."""
        return [
            bool(self.rows) and all(isinstance(row[i], Number) for row in self.rows)
            for i in range(len(self.head))
        ]


@dataclass(frozen=True)
class Figure:
    """A picture, drawn when the document is written: STEM_NAME.png beside STEM.md, STEM.png where ``name`` is
    empty. ``alt`` says what it shows, ``draw`` gives it (see `depo.report.plots`)."""

    name: str
    alt: str
    draw: Callable[[], Drawing]

    def stem(self, document: str) -> str:
        return f"{document}_{self.name}" if self.name else document


@dataclass(frozen=True)
class Section:
    """A part under a heading of its own; its place in the document gives the level."""

    title: Text
    blocks: Sequence[Block]


Block = Paragraph | Bullets | CodeBlock | Table | Figure | Section


@dataclass(frozen=True)
class Document:
    title: Text
    blocks: Sequence[Block]

    def walk(self) -> Iterator[Block]:
        """Every block in the order of reading, a section before what is in it."""
        return walk(self.blocks)


def walk(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from walk(block.blocks)


# ---------------------------------------------------------------- Markdown


def to_markdown(document: Document, stem: str) -> str:
    """The document as GitHub's Markdown; ``stem`` is its file's name, after which its pictures are named."""
    return "\n\n".join(markdown_blocks(Section(document.title, document.blocks), stem, 1)) + "\n"


def markdown_blocks(block: Block, stem: str, level: int) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield re.sub(
                r"^(\d+)?([-+#>.)])", r"\1\\\2", inline(text)
            )  # or it begins a list, a heading, a quote
        case Bullets(items) if items:
            yield "\n".join(f"- {line(item)}" for item in items)
        case CodeBlock(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            yield f"{fence}\n{text}\n{fence}"
        case Table():
            if block.caption:
                yield inline(block.caption)
            rule = ["---:" if numeric else "---" for numeric in block.numeric()]
            rows = [[inline(cell).replace("|", r"\|") for cell in row] for row in (block.head, *block.rows)]
            yield "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))
        case Figure(_, alt, _):
            yield f"![{escaped(alt)}]({block.stem(stem)}.png)"
        case Section(title, blocks):
            yield f"{'#' * level} {inline(title)}"
            for part in blocks:
                yield from markdown_blocks(part, stem, level + 1)


def line(text: Text) -> str:
    """Text at the start of a line, where some characters would begin a list, a heading or a quote."""
    return re.sub(r"^(\d*)([-+#>.)])(?=\s|$)", r"\1\\\2", inline(text))


def inline(text: Text) -> str:
    return "".join(map(markdown_span, spans(text)))


def markdown_span(span: Span) -> str:
    match span:
        case Code(text):
            fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"
        case Strong(text):
            return f"**{escaped(text)}**"
        case _:
            return escaped(str(span))


def escaped(text: str) -> str:
    """Text whose characters Markdown would otherwise take for markup; on one line."""
    text = re.sub(r"[\\`*~]|(?<!\w)_|_(?!\w)|<(?=[\w/!?])|(?<=\])\(|&(?=#?\w+;)", r"\\\g<0>", text)
    return " ".join(text.splitlines())


# ---------------------------------------------------------------- terminal

PLAIN_WIDTH = 240
"""Columns of a line that goes to a file or a pipe: nobody wraps there."""


def show(*blocks: Block) -> None:
    """Print what a terminal can show of the blocks: no pictures."""
    for block in blocks:
        match block:
            case Table():
                show_table(block)
            case Paragraph(text):
                print(fitted(plain(text)))
            case CodeBlock(text):
                print(text)
            case Bullets(items):
                for item in items:
                    print(fitted(f"- {plain(item)}"))
            case Section(title, inside):
                print(f"\n{plain(title)}")
                show(*inside)


def show_table(table: Table) -> None:
    """Under its caption; plain text where stdout is no terminal, nothing where there are no rows."""
    if not table.rows:
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else PLAIN_WIDTH, highlight=False, markup=False, emoji=False)
    grid = Grid(title=plain(table.caption), title_justify="left", title_style="bold")
    grid.box, grid.pad_edge, grid.padding = box.SIMPLE_HEAD if terminal else None, False, (0, 2, 0, 0)
    for name, numeric in zip(table.head, table.numeric(), strict=True):
        grid.add_column(plain(name), justify="right" if numeric else "left")
    for row in table.rows:
        grid.add_row(*map(plain, row))
    console.print(grid)
    console.print()


# ---------------------------------------------------------------- results

Report = Callable[[Mapping[str, Any]], Document]
"""What is to be read of a result."""


def write_result(result: Mapping[str, Any], path: Path, report: Report) -> list[Path]:
    """Store ``result`` as ``path`` (.json) and its report beside it; returns the two files."""
    write_json(path, result, indent=1)
    return [path, write_document(report(result), path.with_suffix(""))]


def write_document(document: Document, stem: Path) -> Path:
    """Write STEM.md and the pictures that the document shows, as PNG and SVG; returns the Markdown file."""
    for block in document.walk():
        if isinstance(block, Figure):
            save(block.draw(), *(stem.with_name(block.stem(stem.name) + suffix) for suffix in FORMATS))
    path = stem.with_name(f"{stem.name}.md")
    write_text(path, to_markdown(document, stem.name))
    return path
