"""The best policy of a run by a named measure, and when to stop waiting for a better one.

    best/policy/     the policy in Hugging Face format
        /best.json   measure, value, step
        /manifest.json

The state is part of every checkpoint: a resumed run remembers what the best was and how long ago.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.files import directory_aside, read_json, seal, write_json
from depo.recipe.schema import Evaluation


def check_measure(config: Evaluation, measures: Sequence[str]) -> None:
    """Raise UserError unless evaluations will have the measure to watch."""
    if config.best is not None and config.best not in measures:
        there_are = ", ".join(measures) or "none"
        raise UserError(f"evaluation.best: no measure {config.best!r}; this run has {there_are}")


class BestPolicy:
    """Watches the evaluations of a run. Does nothing when the recipe names no measure."""

    def __init__(self, config: Evaluation, directory: Path, export: Callable[[Path], None]) -> None:
        """``export`` writes the current policy into a directory."""
        self.config = config
        self.directory = directory
        self.export = export
        self.value: float | None = None
        self.step = 0
        self.mark: float | None = None
        """What has to be exceeded, by ``min_delta``, for patience to begin anew."""
        self.since = 0
        """Evaluations since that was set."""
        self.evaluated = -1
        """Step of the newest evaluation: a policy that is evaluated twice counts once."""

    def consider(self, step: int, scalars: Mapping[str, float]) -> bool:
        """Take note of an evaluation after ``step``; keeps the policy and returns True when it is a new best.
        One that came to no verdict, and so to no value, does not count."""
        name = f"eval/{self.config.best}"
        if self.config.best is None or name not in scalars or step == self.evaluated:
            return False
        self.evaluated = step
        value, stopping = scalars[name], self.config.early_stopping
        margin = 0.0 if stopping is None else stopping.min_delta
        if self.mark is None or value > self.mark + margin:
            self.mark, self.since = value, 0
        else:
            self.since += 1
        if self.value is not None and not value > self.value:
            return False
        self.value, self.step = value, step
        self.keep()
        return True

    def keep(self) -> None:
        """Replace ``best/``."""
        with directory_aside(self.directory) as aside:
            self.export(aside / "policy")
            write_json(aside / "best.json", self.summary() or {})
            seal(aside)

    def __str__(self) -> str:
        if self.value is None:
            return "no best policy yet"
        return f"best {self.config.best} {self.value:.3f} at step {self.step}"

    @property
    def run_out(self) -> bool:
        """Whether patience has run out."""
        stopping = self.config.early_stopping
        return stopping is not None and self.since >= stopping.patience

    def summary(self) -> dict[str, Any] | None:
        """None before the first evaluation, or without a measure."""
        if self.value is None:
            return None
        return {"measure": self.config.best, "value": self.value, "step": self.step}

    def state_dict(self) -> dict[str, Any]:
        return {
            "measure": self.config.best,
            "value": self.value,
            "step": self.step,
            "mark": self.mark,
            "since": self.since,
            "evaluated": self.evaluated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a checkpoint's memory, unless it is of another measure. A better policy that was kept
        between the checkpoint and a kill stays the best: the resumed run need not come to its value again."""
        if not state or state.get("measure", self.config.best) != self.config.best:
            return
        self.value, self.step = state["value"], state["step"]
        self.mark, self.since, self.evaluated = state["mark"], state["since"], state["evaluated"]
        kept = self.directory / "best.json"
        if self.value is not None and kept.is_file():
            found = read_json(kept)
            if found.get("measure") == self.config.best and found["value"] > self.value:
                self.value, self.step = found["value"], found["step"]
