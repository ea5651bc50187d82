"""Where something new is written: when the user names no place, and whether a named one will do."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from depo.errors import UserError


def new_directory(name: str) -> Path:
    """runs/NAME-TIMESTAMP (UTC), numbered when two start in the same second."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, attempt = Path("runs") / stem, 1
    while directory.exists():
        attempt += 1
        directory = Path("runs") / f"{stem}-{attempt}"
    return directory


def check_place(path: Path, option: str) -> None:
    """Raise UserError unless ``path``, with the directories that lead to it, can be made or is there. Asked
    before hours of work, not when their result is to be written."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if there != path.absolute() and not there.is_dir():
        raise UserError(f"{option} {path}: {there.name} is a file, so nothing can lie below it")
    if not os.access(there, os.W_OK):
        raise UserError(f"{option} {path}: no permission to write to {there}")
    if there.is_dir():
        try:  # some directories only look as if they could be written: those of /proc, for one
            os.rmdir(tempfile.mkdtemp(dir=there))
        except OSError as error:
            raise UserError(f"{option} {path}: nothing can be made in {there} ({error.strerror})") from None
