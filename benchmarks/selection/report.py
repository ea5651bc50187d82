"""The selection benchmark as Markdown: headline against targets, every pool and arm, and how it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.selection.document import HEADLINE, SHARES, SUBJECT, YARDSTICK, Curves, curves_of, missing
from depo.report.provenance import provenance_lines
from depo.report.statistics import t_interval
from depo.report.tables import Row, interval, mean, table

GOALS = {YARDSTICK: 0.35, "grpo": 0.40, "depo": 0.70}
"""Rollouts to A, as a share of what a rival needs."""


LEAST_GAIN, MOST_HARM = 0.02, 0.01


HEAD = [
    "arm",
    "seeds",
    "final, smoothed",
    "as measured",
    "− GRPO",
    "− DAPO",
    "effective groups",
    "AUROC",
    "ECE",
    "starvation",
    "choosing, share of a step",
    "s a run",
]


def markdown(document: dict[str, Any], path: Path) -> str:
    """The report; draws one picture a pool beside ``path``."""
    from benchmarks.selection.plots import draw_pool

    lines = ["# Rollouts to the same accuracy", "", *provenance_lines(document), "", document["about"], ""]
    absent = missing(document)
    if absent:
        lines += [f"**Failed or unfinished, and not in here**: {'; '.join(absent)}.", ""]
    lines += targets(document, complete=not absent)
    for name, pool in document["pools"].items():
        picture = path.with_name(f"{path.name}_{name}.png")
        draw_pool(curves_of(pool), document["arms"], horizon_in(pool, document), f"pool {name}", picture)
        lines += ["", f"## Pool `{name}`: {pool['about']}", "", f"![{name}]({picture.name})", ""]
        lines += pool_tables(pool, document)
    arms = [
        [f"`{name}`", arm["title"], f"{arm['lr']:g}", settings(arm)] for name, arm in document["arms"].items()
    ]
    lines += ["", "## Arms", "", *table(["arm", "what it is", "learning rate", "settings"], arms)]
    return "\n".join(lines) + "\n"


def settings(arm: Mapping[str, Any]) -> str:
    """Blocks of the recipe that make an arm."""
    blocks = [f"{block}: {inline(arm[block])}" for block in ("estimator", "selection", "batch") if arm[block]]
    return "`" + "; ".join(blocks) + "`"


def inline(block: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in block.items()) + "}"


def horizon_in(pool: Mapping[str, Any], document: Mapping[str, Any]) -> int:
    """Rollouts of a run on this pool; results of earlier versions have one horizon for all pools."""
    return pool.get("horizon", document["horizon"])


def pool_tables(pool: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    """Composition, final accuracy and the ratios of one pool."""
    comparison, horizon = pool["comparison"], horizon_in(pool, document)
    arms = [name for name in document["arms"] if any(name in runs for runs in pool["seeds"].values())]
    lines = []
    for seed, composition in pool["compositions"].items():
        accuracy = composition["accuracy"]
        lines.append(f"- seed {seed}: {composition['said'][0]}; held-out accuracy {accuracy:.3f}")
    commits = sorted({run["commit"] or "unknown" for runs in pool["seeds"].values() for run in runs.values()})
    lines.append(f"- runs made at commit {', '.join(commits)}")
    lines += ["", f"After {horizon:,} rollouts, {len(pool['seeds'])} seeds [95 % t interval]:", ""]
    curves = curves_of(pool)
    lines += table(
        HEAD,
        [final_row(name, document["arms"][name], pool, comparison["final"][name], curves) for name in arms],
    )
    lines += ["", DIAGNOSIS_NOTE]
    for key, ratios in comparison["ratios"].items():
        unit, share = key.split("@")
        main = float(share) == HEADLINE
        rows = [
            [pair.replace("/", " ÷ "), shown(ratio), str(ratio["seeds"]), censored(ratio)]
            for pair, ratio in ratios.items()
            if has_pairs(ratio) and (main or pair.startswith(f"{SUBJECT}/"))
        ]
        if rows:
            what = f"{unit.capitalize()} to DAPO's accuracy at {float(share):.0%} of the horizon"
            lines += ["", f"{what}, as a ratio:", "", *table(["", "ratio [95 %]", "seeds", "censored"], rows)]
    return lines


DIAGNOSIS_NOTE = (
    "AUROC and ECE are of predictions that a group will be informative, on the uniformly drawn groups of "
    "the last "
    "window, each predicted before it was rolled out; arms without beliefs predict a constant, and arms that "
    "draw nothing uniformly (`audit: 0`) cannot be graded once they select. Starvation: share of the prompts "
    "last seen informative that were visited fewer than three times."
)


def final_row(
    name: str, arm: Mapping[str, Any], pool: Mapping[str, Any], final: Mapping[str, Any], curves: Curves
) -> Row:
    runs = [runs[name] for runs in pool["seeds"].values() if name in runs]
    graded = runs if arm["selection"].get("audit") != 0 else []
    return [
        f"`{name}`",
        str(len(runs)),
        interval(final["accuracy"], 4),
        interval(
            t_interval([by_arm[name].last for by_arm in curves.values() if name in by_arm]).to_json(), 4
        ),
        interval(final.get("minus_grpo"), 4),
        interval(final.get("minus_dapo"), 4),
        mean([run["effective_ratio"] for run in runs], 2),
        *(mean([run["diagnosis"][key] for run in graded], 3) for key in ("auroc", "ece")),
        mean([run["diagnosis"]["starvation"] for run in runs], 3),
        spread([run["seconds"]["select"] / run["seconds"]["steps"] for run in runs]),
        mean([run["seconds"]["wall"] for run in runs], 0),
    ]


def spread(shares: Sequence[float]) -> str:
    """``40–47 %``: smallest and largest."""
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low}–{high} %"


def targets(document: Mapping[str, Any], complete: bool) -> list[str]:
    """What was set out for, what was reached; pools and arms that were not run are left out. Unless the runs
    are ``complete`` nothing counts as met: a run may be missing for what happened in it."""
    rows = [*headline(document["pools"].get("mixed")), *harmless(document["pools"])]
    if not rows:
        return []
    others = ", ".join(f"{share:.0%}" for share in SHARES if share != HEADLINE)
    explained = [
        f"A: DAPO's smoothed accuracy at {HEADLINE:.0%} of the horizon (tables below also at {others}).",
        "",
    ]
    shown_rows = [
        [*row[:-1], row[-1] if complete or row[-1] != "met" else "–: runs are missing"] for row in rows
    ]
    return [
        *(explained if YARDSTICK in document["arms"] else []),
        *table(["", "target", "reached", ""], shown_rows),
    ]


def headline(mixed: Mapping[str, Any] | None) -> Iterator[Row]:
    """On the mixed pool: rollouts to A against each rival, and accuracy at equal rollouts."""
    if mixed is None:
        return
    ratios = mixed["comparison"]["ratios"].get(f"rollouts@{HEADLINE:g}", {})
    for other, goal in GOALS.items():
        ratio = ratios.get(f"{SUBJECT}/{other}")
        if ratio and has_pairs(ratio):
            note = f"; censored {censored(ratio)}" if any(ratio["censored"]) else ""
            what = f"rollouts to A, {SUBJECT} ÷ {other}, mixed"
            yield [what, f"≤ {goal:.2f}", shown(ratio) + note, verdict(ratio, goal)]
    gain = mixed["comparison"]["final"].get(SUBJECT, {}).get(f"minus_{YARDSTICK}")
    if gain:
        reached = None if gain[1] is None else gain[0] > LEAST_GAIN and gain[1] > 0
        what = f"final accuracy, {SUBJECT} − {YARDSTICK}, mixed"
        both = interval(gain, 4) + unsmoothed(mixed, YARDSTICK)
        yield [what, f"> {LEAST_GAIN}, interval above 0", both, met(reached)]


def harmless(pools: Mapping[str, Any]) -> Iterator[Row]:
    """Where selection has nothing to win it must not lose either."""
    for name in ("medium", "hidden"):
        gain = pools.get(name, {}).get("comparison", {}).get("final", {}).get(SUBJECT, {}).get("minus_grpo")
        if gain:
            reached = None if gain[1] is None else gain[1] > -MOST_HARM
            what = f"final accuracy, {SUBJECT} − grpo, {name}"
            both = interval(gain, 4) + unsmoothed(pools[name], "grpo")
            yield [what, f"lower bound > −{MOST_HARM}", both, met(reached)]


def unsmoothed(pool: Mapping[str, Any], other: str) -> str:
    """The subject's lead over another arm by the last evaluation alone, which a fall late in the run lowers
    and smoothing does not show."""
    both = [by_arm for by_arm in curves_of(pool).values() if {SUBJECT, other} <= by_arm.keys()]
    leads = [by_arm[SUBJECT].last - by_arm[other].last for by_arm in both]
    return f"; as measured {interval(t_interval(leads).to_json(), 4)}"


def verdict(ratio: Mapping[str, Any], goal: float) -> str:
    """Whether a ratio is small enough. One pair says nothing, and where the subject is censored its ratio is
    too small: that it has missed can then be said, that it has met not."""
    if not is_known(ratio) or ratio["seeds"] < 2:
        return met(None)
    reached = ratio["mean"][0] <= goal
    return met(None if reached and ratio["censored"][0] else reached)


def met(reached: bool | None) -> str:
    """None: cannot be said."""
    return "–" if reached is None else "met" if reached else "**missed**"


def has_pairs(ratio: Mapping[str, Any]) -> bool:
    return ratio["seeds"] + left_out(ratio) > 0


def is_known(ratio: Mapping[str, Any]) -> bool:
    """False where no pair says anything: none is left, or neither side of any got there."""
    return ratio["mean"] is not None and ratio["censored"] != [ratio["seeds"]] * 2


def shown(ratio: Mapping[str, Any]) -> str:
    """The ratio with its interval, and how many pairs have none."""
    value = interval(ratio["mean"], 3) if is_known(ratio) else "–"
    missing = left_out(ratio)
    pairs = "pair" if missing == 1 else "pairs"
    return f"{value}; {missing} {pairs} left out: already there at the start" if missing else value


def left_out(ratio: Mapping[str, Any]) -> int:
    """Pairs of which one side was there at the start; results of earlier versions do not say."""
    return ratio.get("left_out", 0)


def censored(ratio: Mapping[str, Any]) -> str:
    """How many seeds of each side never got there, of how many: ``0 / 2 of 5``."""
    return f"{ratio['censored'][0]} / {ratio['censored'][1]} of {ratio['seeds']}"
