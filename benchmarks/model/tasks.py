"""What the policy is asked: sums in words or tasks of reasoning_gym, easy enough for informative groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GYM_TASKS = ("ransom_note", "course_schedule", "isomorphic_strings")
"""Of 12 tasks sampled (6 problems, 5 answers each), those that SmolLM2-135M-Instruct solved at all."""


@dataclass(frozen=True, slots=True)
class Task:
    """A source of problems with what goes with it in a recipe."""

    name: str
    source: dict[str, Any]
    """``data.train`` without size and seed."""
    problems_per_size: int
    """Into how many equal parts the source's ``size`` must be divided: reasoning_gym counts per task."""
    template: str
    reward: str
    max_prompt_tokens: int
    max_new_tokens: int

    def train(self, pool: int, seed: int) -> dict[str, Any]:
        """``data.train`` with ``pool`` problems in all."""
        return self.source | {"size": pool // self.problems_per_size, "seed": seed}


SUMS = Task(
    name="sums",
    # One digit three times: SmolLM2-135M-Instruct solves a sampled one-digit sum in seven and hardly a longer
    # one. What is drawn twice is dropped; about two in five of the prompts left have one digit.
    source={"type": "arithmetic", "phrasing": "words", "operations": ["+"], "digits": [1, 1, 1, 2, 3]},
    problems_per_size=1,
    template="{question} Answer with a number.",
    reward="math",
    max_prompt_tokens=96,
    max_new_tokens=48,
)


GYM = Task(
    name="reasoning_gym",
    source={"type": "reasoning_gym", "tasks": list(GYM_TASKS)},
    problems_per_size=len(GYM_TASKS),
    template="{question}\n\nGive only the answer.",
    reward="reasoning_gym",
    max_prompt_tokens=384,
    max_new_tokens=32,
)


TASKS = {task.name: task for task in (SUMS, GYM)}
