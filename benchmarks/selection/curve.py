"""Every run as a curve, held-out accuracy over what it has cost so far, and the comparisons of these curves.

A = what DAPO's smoothed curve has reached after 75 % of the horizon (also 50 and 90 %), seed by seed. An
arm's cost of A is what it had generated when its own smoothed curve got there, warm-up and audit included. An
arm that never gets there counts as if it had at the horizon, and is counted as censored: its ratio is then
too small, and a ratio to it too large. An arm that is there at the start has no ratio: the pair is left out.

Shapes: K evaluations, in order; the first is before training, at cost 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from depo.errors import UserError
from depo.files import read_json
from depo.report.statistics import ratio_interval, t_interval
from depo.trackers.tracker import read_metrics

PRICES = {
    "cost": (1 / 20, 1 / 3),
    "cost, prefilled 1/5": (1 / 5, 1 / 3),
    "cost, trained 1/10": (1 / 20, 1 / 10),
    "cost, trained 1": (1 / 20, 1.0),
}
"""Of a prefilled token, and of one that an update goes through, as shares of what a generated one costs."""
COSTS = ("rollouts", "tokens", "updates", *PRICES)


@dataclass(frozen=True)
class Curve:
    """``accuracy_K``: exact accuracy on all held-out prompts; ``cost_K``: by unit of ``COSTS``."""

    accuracy_K: np.ndarray
    cost_K: Mapping[str, np.ndarray]

    @property
    def smooth_K(self) -> np.ndarray:
        """The nearest curve that never falls (least squares)."""
        return isotonic_regression(self.accuracy_K).x

    @property
    def last(self) -> float:
        """Accuracy at the end as it was measured."""
        return float(self.accuracy_K[-1])

    def at(self, cost: float, unit: str = "rollouts") -> float:
        """Smoothed accuracy after ``cost``, linear between evaluations; the last one beyond its end."""
        return float(np.interp(cost, self.cost_K[unit], self.smooth_K))

    def cost_of(self, accuracy: float, unit: str = "rollouts") -> float | None:
        """What it took to reach an accuracy, linear between evaluations; None when it was not reached."""
        smooth_K, cost_K = self.smooth_K, self.cost_K[unit]
        reached = np.flatnonzero(smooth_K >= accuracy)
        if not len(reached):
            return None
        k = int(reached[0])
        if k == 0:
            return float(cost_K[0])
        share = (accuracy - smooth_K[k - 1]) / (smooth_K[k] - smooth_K[k - 1])
        return float(cost_K[k - 1] + share * (cost_K[k] - cost_K[k - 1]))

    def to_json(self) -> dict[str, list[float]]:
        costs = {unit: [int(value) for value in self.cost_K[unit]] for unit in COSTS}
        return {"accuracy": [round(float(value), 5) for value in self.accuracy_K], **costs}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Curve:
        costs = {unit: np.array(value[unit], dtype=float) for unit in COSTS if unit in value}
        return cls(np.array(value["accuracy"], dtype=float), costs)


def read_curve(run: Path) -> Curve:
    """From a finished run directory. ``updates`` are optimizer steps; ``cost`` is of generated, prefilled and
    trained tokens, in generated ones, at several prices."""
    summary, rows = read_json(run / "summary.json"), read_metrics(run / "metrics.jsonl")
    points = [(summary["eval"]["before"]["all"], *[0.0] * len(COSTS))]
    updates = 0
    for row in rows:
        updates += int(row.get("optimizer_steps") or 0)
        if row.get("eval/all") is not None:
            points.append((row["eval/all"], *spent(row, updates)))
    points.append((summary["eval"]["after"]["all"], *spent(rows[-1], updates)))
    accuracy_K, *costs = np.array(points, dtype=float).T
    return Curve(accuracy_K, dict(zip(COSTS, costs, strict=True)))


def spent(row: Mapping[str, Any], updates: int) -> tuple[float, ...]:
    """By unit of ``COSTS``, up to a row of metrics.jsonl."""
    generated = row["generated/tokens"]
    costs = [
        generated + row["prefilled/tokens"] * prefilled + row["trained/tokens"] * trained
        for prefilled, trained in PRICES.values()
    ]
    return row["generated/rollouts"], generated, updates, *costs


SHARES = (0.5, 0.75, 0.9)
HEADLINE = 0.75
YARDSTICK = "dapo"
SUBJECTS = ("belief", "hybrid")
"""What is compared with all others: the first of these that was run."""

Curves = Mapping[int, Mapping[str, Curve]]
"""Seed → arm → curve."""

DIAGNOSES = {
    "auroc": "calibration/auroc",
    "brier_skill": "calibration/brier_skill",
    "ece": "calibration/ece",
    "starvation": "coverage/starvation",
}
"""Of the last window, by their names in summary.json."""


def read_run(directory: Path) -> dict[str, Any]:
    """A finished run: curve, accuracy, what its rollouts were worth, diagnoses and seconds. Raises UserError
    where its files are damaged."""
    try:
        return figures_of(directory, read_json(directory / "summary.json"))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{directory}: no finished run here ({error!r}); remove it to run it again"
        ) from error


def figures_of(directory: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "curve": read_curve(directory).to_json(),
        "solvable": [summary["eval"][when]["solvable"] for when in ("before", "after")],
        "effective_ratio": summary["groups"]["effective_ratio"],
        "rollouts": summary["rollouts"]["by_outcome"] | {"generated": summary["rollouts"]["generated"]},
        "prompts_seen": summary["prompts"]["seen"],
        "diagnosis": {name: summary["selection"].get(key) for name, key in DIAGNOSES.items()},
        "seconds": {name: round(value, 2) for name, value in summary["seconds"].items()},
        "commit": summary["versions"]["commit"],
    }


def curves_of(pool: Mapping[str, Any]) -> dict[int, dict[str, Curve]]:
    return {
        int(seed): {name: Curve.from_json(run["curve"]) for name, run in runs.items()}
        for seed, runs in pool["seeds"].items()
    }


def missing(document: Mapping[str, Any]) -> list[str]:
    """Runs that were asked for and are not in the document, as ``pool, seed 3: grpo, hybrid``."""
    found = []
    for name, pool in document["pools"].items():
        for seed in document["provenance"]["seeds"]:
            absent = [arm for arm in document["arms"] if arm not in pool["seeds"].get(str(seed), {})]
            if absent:
                found.append(f"{name}, seed {seed}: {', '.join(absent)}")
    return found


def compare(curves: Curves, arms: Sequence[str], horizon: int) -> dict[str, Any]:
    """Rollouts (tokens, updates) to A by arm, ratios between arms, and accuracy at equal rollouts.

    Only seeds that have both sides of a comparison count in it.
    """
    found: dict[str, Any] = {"to_accuracy": {}, "ratios": {}, "final": {}}
    for name in arms:
        having = [seed for seed in curves if name in curves[seed]]
        finals = [curves[seed][name].at(horizon) for seed in having]
        found["final"][name] = {
            "accuracy": t_interval(finals).to_json(),
            **{f"minus_{other}": difference(curves, name, other, horizon) for other in rivals(name, arms)},
        }
    if YARDSTICK not in arms:
        return found
    for unit in COSTS:
        for share in SHARES if unit == "rollouts" else (HEADLINE,):
            costs = dict(costs_of(curves, share, horizon, unit))
            key = f"{unit}@{share:g}"
            found["to_accuracy"][key] = {
                name: {str(seed): cost for (seed, other), cost in costs.items() if other == name}
                for name in arms
            }
            found["ratios"][key] = {
                f"{one}/{other}": ratio(costs, one, other) for one in arms for other in rivals(one, arms)
            }
    return found


def subject(arms: Collection[str]) -> str:
    """The arm that is compared with all others."""
    return next((name for name in SUBJECTS if name in arms), SUBJECTS[0])


def rivals(name: str, arms: Sequence[str]) -> list[str]:
    """What an arm is compared with: the subject with all, the others with GRPO and DAPO."""
    usual = [other for other in ("grpo", YARDSTICK) if other in arms]
    return [other for other in (arms if name == subject(arms) else usual) if other != name]


def difference(curves: Curves, one: str, other: str, cost: float) -> list[float | None]:
    """In accuracy after so many rollouts, with its interval over the seeds that have both."""
    both = [seed for seed in curves if {one, other} <= curves[seed].keys()]
    if not both:
        return [None, None, None]
    return t_interval([curves[s][one].at(cost) - curves[s][other].at(cost) for s in both]).to_json()


def costs_of(
    curves: Curves, share: float, horizon: int, unit: str
) -> Iterator[tuple[tuple[int, str], dict[str, Any]]]:
    """(seed, arm) → {"cost": …, "censored": …}, the accuracy to reach being DAPO's after ``share``."""
    for seed, by_arm in curves.items():
        if YARDSTICK not in by_arm:
            continue
        target = by_arm[YARDSTICK].at(share * horizon)
        for name, curve in by_arm.items():
            cost = curve.cost_of(target, unit)
            end = float(curve.cost_K[unit][-1])
            yield (seed, name), {"cost": end if cost is None else cost, "censored": cost is None}


def ratio(costs: Mapping[tuple[int, str], Mapping[str, Any]], one: str, other: str) -> dict[str, Any]:
    seeds = [seed for seed, name in costs if name == one and (seed, other) in costs]
    # An arm that starts above A has cost 0: it needs no rollouts, which has no logarithm.
    pairs = [(costs[seed, one], costs[seed, other]) for seed in seeds]
    usable = [(a, b) for a, b in pairs if a["cost"] > 0 and b["cost"] > 0]
    return {
        "mean": ratio_interval([a["cost"] / b["cost"] for a, b in usable]).to_json() if usable else None,
        "seeds": len(usable),
        "left_out": len(pairs) - len(usable),
        "censored": [sum(pair[side]["censored"] for pair in usable) for side in (0, 1)],
    }
