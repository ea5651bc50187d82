"""The charts of a page: which keys of metrics.jsonl stand in which panel (docs/metrics.md says what they
mean).

A line whose key no run has is left out, and so is a panel without lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from depo.page.rollouts import short
from depo.trackers.console import UNIFORM_GROUPS

POINTS = 1000
"""Of a line; of longer runs each point is the mean of several steps. Many runs share four times as many."""

RECENT, INFORMATIVE, UNIFORM = "recent accuracy", "informative share", "uniform rollouts"
"""Made of the metrics of a row, see `depo.page.run_data.read_run`."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """``lines``: key → what it is called; a key that ends with "/" stands for all that begin with it.
    ``unit``: share, count, s; without one, the axis need not begin at 0."""

    title: str
    lines: Mapping[str, str]
    unit: str = ""
    note: str = ""
    log: bool = False


PHASE_NAMES = ("select", "generate", "verify", "update", "sync", "wait", "evaluate")
PHASES = Panel(
    "Seconds by phase",
    {f"seconds/{name}": name for name in PHASE_NAMES},
    "s",
    "The estimator learns beside the update.",
)

INFORMATIVE_GROUPS = {
    INFORMATIVE: "informative",
    "zero_variance_share": "zero variance",
    "selection/active": "choosing",
}
SKILL = {
    "calibration/skill": "skill, which the gate goes by",
    "calibration/spearman": "rank correlation",
    "calibration/auroc": "AUROC",
}
COVERAGE = {
    "coverage/prompts_visited": "visited",
    "coverage/prompts_informative": "informative when last seen",
}
SPOILT = {f"{name}_share": name for name in ("truncated", "unparseable", "unscorable")}
IDLE = {
    "overlap/learner_idle": "learner",
    "overlap/engine_idle": "engines",
    "overlap/stale_share": "groups too old",
}

PANELS = (
    Panel(
        "Accuracy",
        {"eval/all": "held-out", RECENT: "uniformly drawn prompts", "accuracy": "this step's rollouts"},
        "share",
        f"Held-out and uniformly drawn prompts (the newest {UNIFORM_GROUPS} groups) show learning. The "
        "step's own rollouts are of chosen prompts.",
    ),
    Panel("Held-out accuracy by part", {"eval/": ""}, "share"),
    Panel("Reward", {"reward": "mean"}),
    Panel(
        "Rollouts against uniform sampling",
        {"generated/rollouts": "used", UNIFORM: "uniform sampling would have needed"},
        "count",
        "For as many groups that teach; with the belief as baseline, for as much signal.",
    ),
    Panel(
        "Informative groups",
        INFORMATIVE_GROUPS,
        "share",
        "Zero variance: all right or all wrong. Choosing is 1 where a rule chose prompts, 0 where they were "
        "drawn uniformly.",
    ),
    Panel(
        "Is the estimator any good?",
        SKILL,
        note="On uniformly drawn groups, predicted before they were rolled out. Above 0, skill beats the "
        "base rate.",
    ),
    Panel("Calibration error", {"calibration/ece": "expected error", "calibration/pass_rate_bias": "bias"}),
    Panel("Coverage", COVERAGE, "count", "Prompts."),
    Panel(
        "Starvation",
        {"coverage/starvation": "of informative prompts, visited less than three times"},
        "share",
    ),
    Panel(
        "Steps since the last visit", {f"coverage/since_visit_p{p}": f"{p} %" for p in (50, 90, 99)}, "count"
    ),
    Panel("Completion length", {"completion_tokens": "mean tokens"}, "count"),
    Panel("Spoilt rollouts", SPOILT, "share"),
    Panel("Learner against engine", {"mismatch_kl": "KL, nats a token"}, log=True),
    Panel("Staleness", {"overlap/lag_mean": "mean, versions", "overlap/lag_max": "largest"}, "count"),
    Panel("Idle", IDLE, "share"),
    Panel("Entropy", {"entropy": "nats a token"}),
    Panel("Gradient norm", {"grad_norm": "before clipping"}, log=True),
    Panel("Moved by an update", {"policy_kl": "KL, nats a token"}, log=True),
    Panel(
        "Expert load", {"routing/load_max": "busiest ÷ mean", "routing/load_cv": "deviation ÷ mean"}, "count"
    ),
    Panel("Experts in use", {"routing/experts_in_use": "of the worst layer"}, "count"),
    PHASES,
    Panel("Seconds a step", {"seconds/step": "step"}, "s"),
)


def panels(runs: Sequence[Sequence[Row]], reliability: Sequence[list[Row] | None]) -> dict[str, Any]:
    """``steps`` of each run, and ``panels`` with their series; one has x values of its own (a list) or those
    of a run (its place). ``reliability``: the bins of each run's summary."""
    rows = [thinned(run, min(POINTS, max(4 * POINTS // len(runs), 1))) for run in runs]
    keys = list(dict.fromkeys(key for some in rows for row in some for key in row))
    found = []
    for panel in PANELS:
        lines = {
            key: name or key.removeprefix(start)
            for start, name in panel.lines.items()
            for key in (
                [one for one in keys if one.startswith(start) and one not in PANELS[0].lines]
                if start.endswith("/")
                else [start]
            )
        }
        series = [
            {"name": name, "run": place, "x": place, "y": [short(row.get(key)) for row in some]}
            for key, name in lines.items()
            for place, some in enumerate(rows)
            if any(row.get(key) is not None for row in some)
        ]
        # With overlap, phases of one step lie in other steps' time: they do not add up.
        stack = panel is PHASES and len(runs) == 1 and "overlap/lag_mean" not in keys
        if series:
            look = {"title": panel.title, "note": panel.note, "unit": panel.unit, "log": panel.log}
            found.append(look | {"stack": stack, "series": series})
        if panel.title == "Calibration error" and any(reliability):
            found.append(reliability_panel(reliability))
    return {"steps": [[row["step"] for row in some] for some in rows], "panels": found}


def reliability_panel(reliability: Sequence[list[Row] | None]) -> dict[str, Any]:
    series: list[dict[str, Any]] = [
        {"name": "observed", "run": place}
        | {axis: [short(one[name]) for one in bins] for axis, name in (("x", "predicted"), ("y", "observed"))}
        for place, bins in enumerate(reliability)
        if bins
    ]
    perfect = {"name": "perfect", "run": len(reliability), "x": [0, 1], "y": [0, 1]}
    note = "Chance that a group is informative, on the newest uniformly drawn groups."
    look = {"title": "Predicted against observed", "note": note, "unit": "share", "across": "share"}
    return look | {"series": [*series, perfect]}


def thinned(rows: Sequence[Row], points: int) -> Sequence[Row]:
    """At most ``points`` rows: means over as many steps each, under the last one's number."""
    size = -(-len(rows) // points)
    return rows if size == 1 else [mean_row(rows[at : at + size]) for at in range(0, len(rows), size)]


def mean_row(rows: Sequence[Row]) -> Row:
    mean: Row = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
        mean[key] = fmean(values) if values else None
    return mean | {"step": rows[-1]["step"]}
