"""Markdown tables of the reports."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> list[str]:
    """The lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def interval(values: Sequence[float | None] | None, digits: int) -> str:
    """(middle, low, high) as ``0.412 [0.390, 0.434]``; without limits where there was one seed only."""
    if values is None or values[0] is None:
        return "–"
    middle, low, high = values
    shown = f"{middle:.{digits}f}"
    return shown if low is None or high is None else f"{shown} [{low:.{digits}f}, {high:.{digits}f}]"


def mean(values: Sequence[float | None], digits: int) -> str:
    """Of what is known."""
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.{digits}f}" if known else "–"
