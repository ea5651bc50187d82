"""A benchmark's document as JSON, and what is to be read of it as Markdown beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def store(document: dict[str, Any], markdown: str, out: Path) -> None:
    """Write ``out``.json and ``out``.md."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=1, allow_nan=False)
    out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(markdown, encoding="utf-8")
