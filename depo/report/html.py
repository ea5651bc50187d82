"""A document as one HTML file that needs nothing else: style, script, data and pictures are inside of it.

Text goes through `escape`; data stands in a JSON element that no text can close. The page's content policy
lets a browser load nothing from anywhere, and run no script but the one whose hash it names.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from depo.report.document import (
    Block,
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
    Text,
    known,
    plain,
    spans,
)

STYLE = Path(__file__).with_name("page.css")


def to_html(document: Document) -> str:
    """A whole page."""
    return page(plain(document.title), to_body([Section(document.title, document.blocks)], level=1))


def page(title: str, body: str, script: str = "", data: Any = None) -> str:
    """``body`` is HTML; ``script`` finds ``data`` as the JSON of the element #data."""
    style = STYLE.read_text(encoding="utf-8")
    policy = f"default-src 'none'; img-src data:; style-src {allowed(style)}; script-src {allowed(script)}"
    parts = [
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>",
        body,
        "</main>",
    ]
    if script:
        inert = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        )
        parts += [f'<script type="application/json" id="data">{inert}</script>', f"<script>{script}</script>"]
    return "\n".join([*parts, "</body></html>\n"])


def allowed(text: str) -> str:
    """A source of a content policy: this text alone."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def to_body(blocks: list[Block], level: int = 2) -> str:
    return "\n".join(part for block in blocks for part in html_blocks(block, level))


def html_blocks(block: Block, level: int) -> Iterator[str]:
    match block:
        case Paragraph(text):
            yield f"<p>{inline(text)}</p>"
        case Bullets(items) if items:
            yield f"<ul>{''.join(f'<li>{inline(item)}</li>' for item in items)}</ul>"
        case CodeBlock(text):
            yield f"<pre><code>{escape(text)}</code></pre>"
        case Table():
            yield html_table(block)
        case Figure(_, alt, draw):
            yield f'<figure><img alt="{escape(alt)}" src="{picture(draw())}"></figure>'
        case Section(title, blocks):
            yield f"<h{min(level, 6)}>{inline(title)}</h{min(level, 6)}>"
            for part in blocks:
                yield from html_blocks(part, level + 1)


def html_table(table: Table) -> str:
    marks = [' class="number"' if numeric else "" for numeric in table.numeric()]
    caption = f"<caption>{inline(table.caption)}</caption>" if table.caption else ""
    head, *rows = (
        "".join(f"<{tag}{mark}>{inline(cell)}</{tag}>" for cell, mark in zip(row, marks, strict=True))
        for tag, row in [("th", table.head), *(("td", row) for row in table.rows)]
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def inline(text: Text) -> str:
    shown = []
    for span in spans(text):
        match span:
            case Code(code):
                shown.append(f"<code>{escape(code)}</code>")
            case Strong(strong):
                shown.append(f"<strong>{escape(strong)}</strong>")
            case Number(value, _, low, _) if known(value) and known(low):
                first, _, interval = str(span).partition(" ")
                shown.append(f"{escape(first)} <small>{escape(interval)}</small>")
            case _:
                shown.append(escape(str(span)))
    return "".join(shown)


def picture(drawing: Any) -> str:
    """A matplotlib figure as a data URI. SVG, so that it is sharp on every screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(drawing)
    image = BytesIO()
    drawing.savefig(image, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(image.getvalue()).decode()}"
