"""Run directories as ``depo train`` leaves them, from made-up rollouts: no policy, no Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from depo.cli import main
from depo.reward.base import Score, unscorable
from depo.selection import Ledger
from depo.trackers.rollouts import ParquetRollouts
from depo.types import Group, Origin, Outcome, Pick, Prompt, Rollout

RECIPE = """\
name: made
seed: {seed}
steps: 9
policy: {{type: pretrained, model: organisation/model}}
data: {{train: organisation/problems}}
batch: {{prompts: 2, group_size: 2}}
learner: {{baseline: group}}
selection: {{type: {rule}}}
"""


def group(
    key: str, step: int, right: Sequence[bool | None], believed: float, text: str = "…", finish: str = "stop"
) -> Group:
    """A group of one token a rollout, with a completion each: "TEXT right", "TEXT wrong"."""
    pick = Pick(Prompt(key, f"prompt {key}", (1,), "42"), Origin.AUDIT, "uniform", True, 0.1, believed, 0.5)
    named = {True: "right", False: "wrong", None: "silent"}
    return Group(
        pick,
        [
            Rollout(key, i, 100 * step + i, np.array([1], np.int32), np.array([-0.1]), finish, step)
            for i in range(len(right))
        ],
        [unscorable("timeout") if one is None else Score(float(one), one) for one in right],
        [f"{text} {named[one]}" for one in right],
        Outcome.TRAINED if len(set(right)) > 1 else Outcome.ZERO_VARIANCE,
        np.array([1.5 if one else -0.5 for one in right], np.float32),
    )


def make_run(
    directory: Path,
    steps: Sequence[Sequence[Group]],
    seed: int = 0,
    rule: str = "thompson",
    finished: bool = True,
    **metrics: float,
) -> Ledger:
    """One row and one file of rollouts a step; ``metrics``: further keys of every row, ``__`` for a slash."""
    directory.mkdir(parents=True)
    (directory / "recipe.yaml").write_text(RECIPE.format(seed=seed, rule=rule))
    ledger, rows = Ledger(group_size=2), []
    for step, groups in enumerate(steps, 1):
        ledger.record(groups)
        ParquetRollouts(directory).write(step, groups)
        known = {"step": step, "generated/rollouts": ledger.generated, "saved": ledger.saved().rollouts}
        known |= {"accuracy": 0.1 * step, "seconds/step": 2.0, "seconds/generate": 1.5}
        rows.append(known | {name.replace("__", "/"): value for name, value in metrics.items()})
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if finished:
        measured = {"before": {"all": 0.25}, "after": {"all": 0.5 + 0.1 * seed}}
        said = {"steps": len(steps), "eval": measured, "gain": {}, "verdict": ["it rose"], "reliability": []}
        (directory / "summary.json").write_text(json.dumps(said | ledger.summary()))
    return ledger


class Read(HTMLParser):
    """What a browser makes of a page: tags with their attributes, text, and the contents of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": [], "td": [], "li": [], "h2": []}
        self.current = ""
        self.feed(html)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.inside["script"][0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.current = tag
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_data(self, data: str) -> None:
        if self.current not in ("script", "style"):
            self.texts.append(data)
        if self.current in self.inside:
            self.inside[self.current][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.current = ""


def report(*arguments: object) -> Read:
    """The page that ``depo report`` writes for these arguments, --out being the last."""
    *runs, out = arguments
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    return Read(Path(str(out)).read_text(encoding="utf-8"))
