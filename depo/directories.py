"""Where something new is written when the user names no place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path


def new_directory(name: str) -> Path:
    """runs/NAME-TIMESTAMP (UTC), numbered when two start in the same second."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, attempt = Path("runs") / stem, 1
    while directory.exists():
        attempt += 1
        directory = Path("runs") / f"{stem}-{attempt}"
    return directory
