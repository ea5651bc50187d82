"""What two compared models are called where their own names are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def told_apart(
    names: Sequence[str], sides: Sequence[str], roles: Sequence[str] = ("first", "second")
) -> tuple[str, str]:
    """The names of two models; where they are equal, each with the end of its path that tells them
    apart, or with its role where both came from one place. ``sides`` are the two as the command line names
    them."""
    first, second = names
    if first != second:
        return first, second
    parts = [Path(side).expanduser().resolve().parts for side in sides]
    if parts[0] == parts[1]:
        return f"{first} ({roles[0]})", f"{second} ({roles[1]})"
    length = next(n for n in range(1, 1 + max(map(len, parts))) if parts[0][-n:] != parts[1][-n:])
    ends = [Path(*some[-length:]) for some in parts]
    return f"{first} ({ends[0]})", f"{second} ({ends[1]})"
