"""The selection benchmark for readers: headline against targets, every pool and arm, and how it was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import coded
from benchmarks.selection.curve import (
    HEADLINE,
    SHARES,
    YARDSTICK,
    Curves,
    curves_of,
    difference,
    missing,
    subject,
)
from depo.report.document import (
    UNKNOWN,
    Block,
    Bullets,
    Code,
    Document,
    Figure,
    Number,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
)
from depo.report.plots import new_figure
from depo.report.provenance import provenance_blocks
from depo.report.statistics import t_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

GOALS = {
    "answers": ("rollouts", {YARDSTICK: 0.25, "grpo": 0.40, "dapo_pairs": 0.40}),
    "chains": ("cost", {YARDSTICK: 0.35, "grpo": 0.45, "pilot_commit": 0.80, "spo": 0.85}),
}
"""World → unit, and what to reach A may take of it as a share of what a rival needs."""

LEAST_GAIN, MOST_HARM = 0.02, 0.01
ON_THE_WAY = (0.25, 0.5, 0.75, 1.0)
FORMER_NAMES = {"no_view": "no_probe", "no_recall": "no_rescoring"}
"""Of arms in stored results → today's."""

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
DIAGNOSIS_NOTE = (
    "AUROC and ECE are of predictions that a group will be informative, on the uniformly drawn groups of "
    "the last window, each predicted before it was rolled out. Arms without beliefs predict a constant. Arms "
    "that draw nothing uniformly (`audit: 0`) cannot be graded once they select. Starvation: share of the "
    "prompts last seen informative that were visited fewer than three times."
)
Row = list[Text]


def report(result: Mapping[str, Any]) -> Document:
    result = under_todays_names(result)
    absent = missing(result)
    blocks: list[Block] = [*provenance_blocks(result), Paragraph(coded(result["about"]))]
    if absent:
        unfinished = Strong("Failed or unfinished, and not in here")
        blocks.append(Paragraph([unfinished, f": {'; '.join(absent)}."]))
    blocks += targets(result, complete=not absent)
    for name, pool in result["pools"].items():
        blocks.append(Section(["Pool ", Code(name), f": {pool['about']}"], pool_blocks(name, pool, result)))
    arms: list[Row] = [
        [Code(name), arm["title"], f"{arm['lr']:g}", Code(settings(arm))]
        for name, arm in result["arms"].items()
    ]
    heads = ["arm", "what it is", "learning rate", "settings"]
    return Document("Rollouts to the same accuracy", [*blocks, Section("Arms", [Table(heads, arms)])])


def under_todays_names(result: Mapping[str, Any]) -> dict[str, Any]:
    """Results of earlier versions call some arms otherwise."""

    def renamed(by_arm: Mapping[str, Any]) -> dict[str, Any]:
        return {FORMER_NAMES.get(name, name): value for name, value in by_arm.items()}

    pools = {}
    for name, pool in result["pools"].items():
        comparison = pool["comparison"]
        ratios = {
            key: {"/".join(renamed(dict.fromkeys(pair.split("/")))): ratio for pair, ratio in by_pair.items()}
            for key, by_pair in comparison["ratios"].items()
        }
        pools[name] = dict(pool) | {
            "seeds": {seed: renamed(runs) for seed, runs in pool["seeds"].items()},
            "comparison": {"final": renamed(comparison["final"]), "ratios": ratios},
        }
    return dict(result) | {"arms": renamed(result["arms"]), "pools": pools}


def settings(arm: Mapping[str, Any]) -> str:
    """Blocks of the recipe that make an arm. Results of earlier versions have ``batch`` for the group's size,
    and no ``learner``."""
    blocks = [
        f"{block}: {{{', '.join(f'{key}: {value}' for key, value in arm[block].items())}}}"
        for block in ("estimator", "selection", "batch", "learner")
        if arm.get(block)
    ]
    return "; ".join([*blocks, *([f"group_size: {arm['group_size']}"] if "group_size" in arm else [])])


# ---------------------------------------------------------------- one pool


def pool_blocks(name: str, pool: Mapping[str, Any], result: Mapping[str, Any]) -> list[Block]:
    """Picture, composition, final accuracy and the ratios of one pool."""
    # Results of earlier versions have one horizon for all pools.
    comparison, horizon = pool["comparison"], pool.get("horizon", result["horizon"])
    arms = [arm for arm in result["arms"] if any(arm in runs for runs in pool["seeds"].values())]
    curves = curves_of(pool)
    composed = [
        f"seed {seed}: {one['said'][0]}; held-out accuracy {one['accuracy']:.3f}"
        for seed, one in pool["compositions"].items()
    ]
    commits = sorted({run["commit"] or "unknown" for runs in pool["seeds"].values() for run in runs.values()})
    final = [final_row(arm, result["arms"][arm], pool, comparison["final"][arm], curves) for arm in arms]
    blocks: list[Block] = [
        Figure(name, name, partial(draw_pool, curves, result["arms"], horizon, f"pool {name}")),
        Bullets([*composed, f"runs made at commit {', '.join(commits)}"]),
        Table(HEAD, final, f"After {horizon:,} rollouts, {len(pool['seeds'])} seeds [95 % t interval]:"),
        Paragraph(coded(DIAGNOSIS_NOTE)),
        *leads(curves, arms, horizon),
    ]
    for key, ratios in comparison["ratios"].items():
        unit, share = key.split("@")
        main = float(share) == HEADLINE
        rows: list[Row] = [
            [pair.replace("/", " ÷ "), shown(ratio), str(ratio["seeds"]), censored(ratio)]
            for pair, ratio in ratios.items()
            if has_pairs(ratio) and (main or pair.startswith(f"{subject(arms)}/"))
        ]
        if rows:
            what = f"{unit.capitalize()} to DAPO's accuracy at {float(share):.0%} of the horizon, as a ratio:"
            blocks.append(Table(["", "ratio [95 %]", "seeds", "censored"], rows, what))
    return blocks


def leads(curves: Curves, arms: Sequence[str], horizon: int) -> Iterator[Table]:
    """By how much our arm is ahead of the others on the way."""
    ours = subject(arms)
    rows: list[Row] = [
        [
            f"{ours} − {other}",
            *(Number.of(difference(curves, ours, other, share * horizon), "+.3f") for share in ON_THE_WAY),
        ]
        for other in arms
        if other != ours and ours in arms
    ]
    if rows:
        heads = [f"after {share:.0%} of the rollouts" for share in ON_THE_WAY]
        yield Table(["", *heads], rows, "Difference in smoothed accuracy [95 % t interval]:")


def final_row(
    name: str, arm: Mapping[str, Any], pool: Mapping[str, Any], final: Mapping[str, Any], curves: Curves
) -> Row:
    runs = [runs[name] for runs in pool["seeds"].values() if name in runs]
    graded = runs if arm["selection"].get("audit") != 0 else []
    last = t_interval([by_arm[name].last for by_arm in curves.values() if name in by_arm])
    shares = [100 * run["seconds"]["select"] / run["seconds"]["steps"] for run in runs]
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return [
        Code(name),
        str(len(runs)),
        Number.of(final["accuracy"], ".4f"),
        Number.of(last.to_json(), ".4f"),
        Number.of(final.get("minus_grpo"), ".4f"),
        Number.of(final.get("minus_dapo"), ".4f"),
        mean([run["effective_ratio"] for run in runs], ".2f"),
        *(mean([run["diagnosis"][key] for run in graded], ".3f") for key in ("auroc", "ece")),
        mean([run["diagnosis"]["starvation"] for run in runs], ".3f"),
        f"{low} %" if low == high else f"{low}–{high} %",
        mean([run["seconds"]["wall"] for run in runs], ".0f"),
    ]


def mean(values: Sequence[float | None], form: str) -> Number:
    """Of what is known."""
    found = [value for value in values if value is not None]
    return Number(sum(found) / len(found) if found else None, form)


def draw_pool(curves: Curves, arms: Iterable[str], horizon: int, title: str) -> Drawing:
    """Accuracy over rollouts, one line an arm: mean over seeds of the smoothed curves, each seed behind it;
    dotted, the mean of what was measured."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    grid = np.linspace(0, horizon, 101)
    for number, name in enumerate(arms):
        runs = [by_arm[name] for by_arm in curves.values() if name in by_arm]
        if not runs:
            continue
        smoothed, measured = (
            [np.interp(grid, run.cost_K["rollouts"], values(run)) for run in runs]
            for values in (lambda run: run.smooth_K, lambda run: run.accuracy_K)
        )
        colour = f"C{number % 10}"
        for line in smoothed:
            axes.plot(grid, line, color=colour, alpha=0.25, linewidth=0.8)
        axes.plot(grid, np.mean(measured, axis=0), ":", color=colour, linewidth=0.9)
        style = "-" if number < 10 else "--"
        axes.plot(grid, np.mean(smoothed, axis=0), style, color=colour, label=name)
    axes.set(xlabel="rollouts", ylabel="held-out accuracy", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


# ---------------------------------------------------------------- targets


def targets(result: Mapping[str, Any], complete: bool) -> list[Block]:
    """What was set out for, what was reached; pools and arms that were not run are left out. Unless the runs
    are ``complete`` nothing counts as met: a run may be missing for what happened in it."""
    world = result.get("world", "answers")  # results of earlier versions know of no other
    rows = [*headline(result["pools"].get("mixed"), world), *harmless(result["pools"])]
    if not rows:
        return []
    others = ", ".join(f"{share:.0%}" for share in SHARES if share != HEADLINE)
    explained = (
        f"A: DAPO's smoothed accuracy at {HEADLINE:.0%} of the horizon (tables below also at {others})."
    )
    shown_rows = [
        [*row[:-1], row[-1] if complete or row[-1] != "met" else "–: runs are missing"] for row in rows
    ]
    return [
        *([Paragraph(explained)] if YARDSTICK in result["arms"] else []),
        Table(["", "target", "reached", ""], shown_rows),
    ]


def headline(mixed: Mapping[str, Any] | None, world: str) -> Iterator[Row]:
    """On the mixed pool: what A costs against each rival, and accuracy at equal rollouts."""
    if mixed is None:
        return
    unit, goals = GOALS[world]
    ours = subject(mixed["comparison"]["final"])
    ratios = mixed["comparison"]["ratios"].get(f"{unit}@{HEADLINE:g}", {})
    for other, goal in goals.items():
        ratio = ratios.get(f"{ours}/{other}")
        if ratio and has_pairs(ratio):
            note = [f"; censored {censored(ratio)}"] if any(ratio["censored"]) else []
            what = f"{unit} to A, {ours} ÷ {other}, mixed"
            yield [what, f"≤ {goal:.2f}", [*shown(ratio), *note], verdict(ratio, goal)]
    gain = mixed["comparison"]["final"].get(ours, {}).get(f"minus_{YARDSTICK}")
    if gain:
        reached = None if gain[1] is None else gain[0] > LEAST_GAIN and gain[1] > 0
        what = f"final accuracy, {ours} − {YARDSTICK}, mixed"
        yield [what, f"> {LEAST_GAIN}, interval above 0", both(gain, mixed, YARDSTICK), met(reached)]


def harmless(pools: Mapping[str, Any]) -> Iterator[Row]:
    """Where selection has nothing to win it must not lose either."""
    for name in ("medium", "hidden", "single_pass"):
        final = pools.get(name, {}).get("comparison", {}).get("final", {})
        ours = subject(final)
        gain = final.get(ours, {}).get("minus_grpo")
        if gain:
            reached = None if gain[1] is None else gain[1] > -MOST_HARM
            what = f"final accuracy, {ours} − grpo, {name}"
            yield [what, f"lower bound > −{MOST_HARM}", both(gain, pools[name], "grpo"), met(reached)]


def both(gain: Sequence[float | None], pool: Mapping[str, Any], other: str) -> Text:
    """Our arm's lead over another arm, smoothed; and by the last evaluation alone, which a fall late in
    the run lowers and smoothing does not show."""
    ours = subject(pool["comparison"]["final"])
    pairs = [by_arm for by_arm in curves_of(pool).values() if {ours, other} <= by_arm.keys()]
    leads = [by_arm[ours].last - by_arm[other].last for by_arm in pairs]
    return [Number.of(gain, ".4f"), "; as measured ", Number.of(t_interval(leads).to_json(), ".4f")]


def verdict(ratio: Mapping[str, Any], goal: float) -> Text:
    """Whether a ratio is small enough. One pair says nothing, and where the subject is censored its ratio is
    too small: that it has missed can then be said, that it has met not."""
    if not is_known(ratio) or ratio["seeds"] < 2:
        return met(None)
    reached = ratio["mean"][0] <= goal
    return met(None if reached and ratio["censored"][0] else reached)


def met(reached: bool | None) -> Text:
    """None: cannot be said."""
    return UNKNOWN if reached is None else "met" if reached else Strong("missed")


# ---------------------------------------------------------------- ratios


def has_pairs(ratio: Mapping[str, Any]) -> bool:
    return ratio["seeds"] + left_out(ratio) > 0


def is_known(ratio: Mapping[str, Any]) -> bool:
    """False where no pair says anything: none is left, or neither side of any got there."""
    return ratio["mean"] is not None and ratio["censored"] != [ratio["seeds"]] * 2


def shown(ratio: Mapping[str, Any]) -> Sequence[str | Number]:
    """The ratio with its interval, and how many pairs have none."""
    value = Number.of(ratio["mean"] if is_known(ratio) else None)
    absent = left_out(ratio)
    pairs = "pair" if absent == 1 else "pairs"
    return [value, *([f"; {absent} {pairs} left out: already there at the start"] if absent else [])]


def left_out(ratio: Mapping[str, Any]) -> int:
    """Pairs of which one side was there at the start; results of earlier versions do not say."""
    return ratio.get("left_out", 0)


def censored(ratio: Mapping[str, Any]) -> str:
    """How many seeds of each side never got there, of how many: ``0 / 2 of 5``."""
    return f"{ratio['censored'][0]} / {ratio['censored'][1]} of {ratio['seeds']}"
