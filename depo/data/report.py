"""What became of the rows of a source: every row read is kept or counted under one reason."""

from __future__ import annotations

from dataclasses import dataclass

REASONS = {
    "duplicates": "duplicates",
    "conflicts": "duplicates with another answer",
    "too_long": "too long",
    "without_answer": "without answer",
    "without_prompt": "without prompt",
    "unmatched": "not matching question_pattern",
}


@dataclass(slots=True)
class DataReport:
    """Rows of one source, counted. ``read`` is the sum of all the others."""

    source: str
    read: int = 0
    kept: int = 0
    duplicates: int = 0
    """Same key and same answer as an earlier row."""
    conflicts: int = 0
    """Same key as an earlier row, other answer: the first row's answer stands."""
    too_long: int = 0
    """More than data.max_prompt_tokens."""
    without_answer: int = 0
    """Null, blank, or not valid Unicode."""
    without_prompt: int = 0
    """Null, blank, or not valid Unicode."""
    unmatched: int = 0
    """columns.question_pattern found nothing."""

    @property
    def dropped(self) -> dict[str, int]:
        """Why rows were dropped, and how many; reasons without rows are left out."""
        return {name: count for name in REASONS if (count := getattr(self, name))}

    def __str__(self) -> str:
        line = f"{self.source}: {self.kept:,} prompts of {self.read:,} rows"
        if self.dropped:
            line += f" (dropped: {self.reasons()})"
        return line

    def reasons(self) -> str:
        return ", ".join(f"{count:,} {REASONS[name]}" for name, count in self.dropped.items())
