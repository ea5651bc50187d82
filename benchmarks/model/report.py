"""A result of ``python -m benchmarks model`` for readers.

S: steps of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import coded
from depo.report.document import (
    UNKNOWN,
    Block,
    CodeBlock,
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

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Cell = Callable[[Mapping[str, Any]], Text]
"""What a column says of a finished run."""

PHASES = ("select", "generate", "verify", "update", "estimate", "sync", "evaluate")


def report(result: Mapping[str, Any]) -> Document:
    done = [run for run in result["runs"] if run["status"] == "done"]
    there = {(run["seed"], run["arm"]) for run in result["runs"]}
    asked = [(seed, arm) for seed in result["provenance"]["seeds"] for arm in result["arms"]]
    absent = ", ".join(f"seed {seed} {arm}" for seed, arm in asked if (seed, arm) not in there)
    blocks: list[Block] = [*provenance_blocks(result), Paragraph(coded(setting_text(result["setting"])))]
    if absent:
        blocks.append(Paragraph([Strong("Unfinished, and not in here"), f": {absent}."]))
    blocks.append(Figure("", "accuracy and effective-group ratio over rollouts", partial(draw, result)))
    compared = comparison_sections(result.get("comparisons", []))
    if done:
        jobs = Paragraph(jobs_text(result["setting"]))
        blocks += [
            Section("Result", [table(RESULT, done)]),
            *compared,
            Section("What an effective group cost", [table(COST, done), Paragraph(SAVED_NOTE)]),
            Section(
                "Diagnosis: estimator, coverage, mismatch", [table(DIAGNOSIS, done), Paragraph(AUDIT_NOTE)]
            ),
            Section("Seconds by phase", [table(SECONDS, done), jobs]),
        ]
    failures: list[Block] = []
    for run in result["runs"]:
        if run["status"] != "done":
            failures.append(Paragraph(f"Seed {run['seed']}, {run['arm']}: exit status {run['exit_status']}."))
            failures.append(CodeBlock("\n".join(run["last_lines"])))
    if failures:
        blocks.append(Section("Failed", failures))
    return Document("Selection on a real language model", blocks)


def setting_text(setting: Mapping[str, Any]) -> str:
    form = setting["form"]
    rollouts = f"{form['steps']} steps of {form['prompts']} groups of {form['group_size']}"
    return (
        f"{setting['model']} in {form['dtype']} on `{setting['task']}`: every arm is the same recipe but for "
        f"estimator and selection, and gets {setting['horizon']:,} training rollouts (what {rollouts} "
        f"generate without refill), completions of at most {setting['max_new_tokens']} tokens, engine "
        f"{setting['engine']}, learning rate {form['lr']:g}. Arms of one seed share pool "
        f"({form['pool'] - form['heldout']:,} prompts at most), held-out set ({form['heldout']} prompts, "
        f"{form['samples']} answers each at temperature 1) and keyed randomness. A last step with refill "
        "rounds ends beyond the horizon: accuracy at the horizon is read off the line between the two "
        "evaluations around it."
    )


def jobs_text(setting: Mapping[str, Any]) -> str:
    """How many ran at a time; results of earlier versions, which do not say it, were of one."""
    jobs = setting.get("jobs", 1)
    if jobs == 1:
        return "One run at a time."
    return (
        f"{jobs} runs at a time, which shared cores and GPU: these seconds are not comparable with those of "
        "runs alone."
    )


def comparison_sections(comparisons: Sequence[Mapping[str, Any]]) -> list[Block]:
    if not comparisons:
        return []
    rows: list[list[Text]] = [
        [
            f"{one['arm']} − {one['baseline']}",
            Number(one["mean"], "+.3f"),
            UNKNOWN if one["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*one["interval"]),
            ", ".join(f"{value:+.3f}" for value in one["differences"]),
        ]
        for one in comparisons
    ]
    blocks: list[Block] = [Table(["difference", "mean", "95 % t interval over seeds", "by seed"], rows)]
    if all(one["interval"] is None for one in comparisons):
        alone = "One seed has no interval, and its difference is within the noise of a small held-out set."
        blocks.append(Paragraph(alone))
    return [Section("Held-out accuracy at equal rollouts, paired by seed", blocks)]


# ---------------------------------------------------------------- columns of the tables


def table(columns: Mapping[str, Cell], runs: Sequence[Mapping[str, Any]]) -> Table:
    """One row a run."""
    rows = [[str(run["seed"]), run["arm"], *(cell(run) for cell in columns.values())] for run in runs]
    return Table(["seed", "arm", *columns], rows)


def figure(*keys: str, form: str = ".3f") -> Cell:
    """The number at ``run["figures"][key][key]…``."""

    def cell(run: Mapping[str, Any]) -> Number:
        value: Any = run["figures"]
        for key in keys:
            value = value[key]
        return Number(value, form)

    return cell


def saved(run: Mapping[str, Any]) -> Number:
    low, high = run["figures"]["saved_interval"] or (None, None)
    return Number(run["figures"]["saved"], "+,.0f", low, high)


def reward(run: Mapping[str, Any]) -> str:
    ends = run["figures"]["reward"]
    return UNKNOWN if ends is None else f"{ends[0]:.3f} → {ends[1]:.3f}"


def prompts_seen(run: Mapping[str, Any]) -> str:
    coverage = run["figures"]["coverage"]
    return f"{coverage['seen']:,} of {coverage['pool']:,}"


def uniform_rate(run: Mapping[str, Any]) -> Text:
    uniform = run["figures"]["uniform"]
    return [Number(uniform["rate"], ".2f"), f" of {uniform['drawn']:,}"]


def phase(name: str) -> Cell:
    return lambda run: Number(run["figures"]["seconds"].get(name), ".1f")


RESULT: dict[str, Cell] = {
    "accuracy before": figure("accuracy", "before"),
    "at the horizon": figure("accuracy", "at_horizon"),
    "after": figure("accuracy", "after"),
    "training reward, first → last quarter": reward,
    "rollouts": figure("rollouts", form=","),
    "steps": figure("steps", form=""),
    "updates": figure("updates", form=".0f"),
}
COST: dict[str, Cell] = {
    "effective-group ratio": figure("effective_ratio"),
    "effective groups": figure("effective_groups", form=","),
    "rollouts each": figure("rollouts_per_effective_group", form=".1f"),
    "tokens each": figure("tokens_per_effective_group", form=",.0f"),
    "informative among uniform draws": uniform_rate,
    "rollouts saved [95 %]": saved,
}
DIAGNOSIS: dict[str, Cell] = {
    "steps selected": figure("active_share", form=".0%"),
    "graded groups": figure("audit", "groups", form=".0f"),
    "AUROC": figure("audit", "auroc"),
    "Brier skill": figure("audit", "brier_skill", form="+.3f"),
    "ECE": figure("audit", "ece"),
    "prompts seen": prompts_seen,
    "starvation": figure("coverage", "starvation", form=".2f"),
    "mismatch KL": figure("mismatch_kl", form=".1e"),
    "tokens a completion": figure("completion_tokens", form=".1f"),
}
SECONDS: dict[str, Cell] = {name: phase(name) for name in (*PHASES, "steps", "wall")}
SAVED_NOTE = (
    "Saved: what uniform sampling would have needed for as many effective groups, at the rate of informative "
    "ones among groups drawn uniformly, minus what was generated; the interval is of that rate. Surplus "
    "counts as waste."
)
AUDIT_NOTE = (
    "AUROC, Brier skill and ECE are of predictions that a group will be informative, on the uniformly drawn "
    "groups of the last window, each predicted before it was rolled out. Arms without beliefs predict a "
    "constant. Training rewards are of the prompts that were chosen, not of the pool. Starvation: share of "
    "the prompts last seen informative that were visited fewer than three times."
)

# ---------------------------------------------------------------- picture


def draw(result: Mapping[str, Any]) -> Drawing:
    """Held-out accuracy and, beside it, the effective-group ratio so far, over training rollouts: one colour
    an arm, one line a seed. Failed runs are left out."""
    picture = new_figure(10, 4.2)
    left, right = picture.subplots(1, 2)
    colour = {arm: f"C{i}" for i, arm in enumerate(result["arms"])}
    labelled: set[str] = set()
    for run in result["runs"]:
        if run["status"] != "done":
            continue
        arm, figures = run["arm"], run["figures"]
        style = {"color": colour[arm], "linewidth": 1.2, "label": None if arm in labelled else arm}
        labelled.add(arm)
        curve = figures["accuracy"]["curve"]
        left.plot([x for x, _ in curve], [y for _, y in curve], marker="o", markersize=3, **style)
        right.plot(*ratio_so_far(figures["trace"]), **style)
    left.set(xlabel="training rollouts", ylabel="held-out accuracy")
    left.set_ylim(bottom=0)
    right.set(xlabel="training rollouts", ylabel="effective groups / groups, so far", ylim=(0, 1))
    for axes in (left, right):
        axes.axvline(result["setting"]["horizon"], color="grey", linewidth=0.8, linestyle=":")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    if labelled:
        left.legend(fontsize="small")
    return picture


def ratio_so_far(trace: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(rollouts generated (S,), share of the groups generated so far that were informative (S,))."""
    informative_S = np.cumsum([row["effective_groups"] for row in trace])
    groups_S = np.cumsum([row["groups"] for row in trace])
    return np.array([row["rollouts"] for row in trace]), informative_S / groups_S
