"""Markdown of a result of ``depo bench model``, from its JSON document alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.model.plots import draw
from depo.report import tables
from depo.report.provenance import provenance_lines

Cell = Callable[[dict[str, Any]], str]


ABSENT = "–"


PHASES = ("select", "generate", "verify", "update", "estimate", "sync", "evaluate")


def markdown(document: dict[str, Any], path: Path) -> str:
    """The report; draws ``path``.png beside it. ``path`` has no suffix."""
    draw(document, path.with_name(f"{path.name}.png"))
    done = [run for run in document["runs"] if run["status"] == "done"]
    failed = [run for run in document["runs"] if run["status"] != "done"]
    parts = [
        "# Selection on a real language model",
        "\n".join(provenance_lines(document)),
        setting_text(document["setting"]),
        missing_text(document),
        f"![accuracy and effective-group ratio over rollouts]({path.name}.png)",
        *section("Result", RESULT, done),
        *comparison_section(document.get("comparisons", [])),
        *section("What an effective group cost", COST, done),
        SAVED_NOTE if done else "",
        *section("Diagnosis: estimator, coverage, mismatch", DIAGNOSIS, done),
        AUDIT_NOTE if done else "",
        *section("Seconds by phase", SECONDS, done),
        jobs_text(document["setting"]) if done else "",
        *failure_section(failed),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def setting_text(setting: dict[str, Any]) -> str:
    form = setting["form"]
    rollouts = f"{form['steps']} steps of {form['prompts']} groups of {form['group_size']}"
    return (
        f"{setting['model']} in {form['dtype']} on `{setting['task']}`: every arm is the same recipe but for "
        f"estimator and selection, and gets {setting['horizon']:,} training rollouts (what {rollouts} "
        f"generate without refill), completions of at most {setting['max_new_tokens']} tokens, engine "
        f"{setting['engine']}, learning rate {form['lr']:g}. Arms of one seed share pool "
        f"({form['pool'] - form['heldout']:,} prompts at most), held-out set ({form['heldout']} prompts, "
        f"{form['samples']} answers each at temperature 1) and keyed randomness. A last step with refill "
        "rounds ends beyond the horizon: accuracy *at the horizon* is read off the line between the two "
        "evaluations around it."
    )


def missing_text(document: dict[str, Any]) -> str:
    """Runs that were asked for and have not ended, if any."""
    there = {(run["seed"], run["arm"]) for run in document["runs"]}
    asked = [(seed, arm) for seed in document["provenance"]["seeds"] for arm in document["arms"]]
    absent = ", ".join(f"seed {seed} {arm}" for seed, arm in asked if (seed, arm) not in there)
    return f"**Unfinished, and not in here**: {absent}." if absent else ""


def jobs_text(setting: dict[str, Any]) -> str:
    """How many ran at a time; results of earlier versions, which do not say it, were of one."""
    jobs = setting.get("jobs", 1)
    if jobs == 1:
        return "One run at a time."
    return (
        f"{jobs} runs at a time, which shared cores and GPU: these seconds are not comparable with those of "
        "runs alone."
    )


# ---------------------------------------------------------------- columns of the tables


def figure(*keys: str, form: str = "{:.3f}") -> Cell:
    """The number at ``run["figures"][key][key]…``."""

    def cell(run: dict[str, Any]) -> str:
        value = run["figures"]
        for key in keys:
            value = value[key]
        return ABSENT if value is None else form.format(value)

    return cell


def saved(run: dict[str, Any]) -> str:
    value, interval = run["figures"]["saved"], run["figures"]["saved_interval"]
    return ABSENT if value is None else f"{value:+,.0f} [{interval[0]:+,.0f}, {interval[1]:+,.0f}]"


def reward(run: dict[str, Any]) -> str:
    ends = run["figures"]["reward"]
    return ABSENT if ends is None else f"{ends[0]:.3f} → {ends[1]:.3f}"


def prompts_seen(run: dict[str, Any]) -> str:
    coverage = run["figures"]["coverage"]
    return f"{coverage['seen']:,} of {coverage['pool']:,}"


def uniform_rate(run: dict[str, Any]) -> str:
    uniform = run["figures"]["uniform"]
    rate = uniform["rate"]
    return f"{ABSENT if rate is None else f'{rate:.2f}'} of {uniform['drawn']:,}"


def phase(name: str) -> Cell:
    def cell(run: dict[str, Any]) -> str:
        seconds = run["figures"]["seconds"].get(name)
        return ABSENT if seconds is None else f"{seconds:.1f}"

    return cell


RESULT: dict[str, Cell] = {
    "accuracy before": figure("accuracy", "before"),
    "at the horizon": figure("accuracy", "at_horizon"),
    "after": figure("accuracy", "after"),
    "training reward, first → last quarter": reward,
    "rollouts": figure("rollouts", form="{:,}"),
    "steps": figure("steps", form="{}"),
    "updates": figure("updates", form="{:.0f}"),
}


COST: dict[str, Cell] = {
    "effective-group ratio": figure("effective_ratio"),
    "effective groups": figure("effective_groups", form="{:,}"),
    "rollouts each": figure("rollouts_per_effective_group", form="{:.1f}"),
    "tokens each": figure("tokens_per_effective_group", form="{:,.0f}"),
    "mixed among uniform draws": uniform_rate,
    "rollouts saved [95 %]": saved,
}


DIAGNOSIS: dict[str, Cell] = {
    "steps selected": figure("active_share", form="{:.0%}"),
    "graded groups": figure("audit", "groups", form="{:.0f}"),
    "AUROC": figure("audit", "auroc"),
    "Brier skill": figure("audit", "brier_skill", form="{:+.3f}"),
    "ECE": figure("audit", "ece"),
    "prompts seen": prompts_seen,
    "starvation": figure("coverage", "starvation", form="{:.2f}"),
    "mismatch KL": figure("mismatch_kl", form="{:.1e}"),
    "tokens a completion": figure("completion_tokens", form="{:.1f}"),
}


SECONDS: dict[str, Cell] = {name: phase(name) for name in (*PHASES, "steps", "wall")}


SAVED_NOTE = (
    "Saved: what uniform sampling would have needed for as many effective groups, at the rate of mixed ones "
    "among groups drawn uniformly, minus what was generated; the interval is of that rate. Surplus counts "
    "as waste."
)


AUDIT_NOTE = (
    "AUROC, Brier skill and ECE are of predictions that a group will be informative, on the uniformly "
    "drawn groups "
    "of the last window, each predicted before it was rolled out. Arms without beliefs predict a constant. "
    "Training rewards are of the prompts that were chosen, not of the pool. Starvation: share of the prompts "
    "last seen informative that were visited fewer than three times."
)


# ---------------------------------------------------------------- sections


def section(title: str, columns: dict[str, Cell], runs: Sequence[dict[str, Any]]) -> list[str]:
    """A table with one row a run; nothing when no run is done."""
    if not runs:
        return []
    rows = [[str(run["seed"]), run["arm"], *(cell(run) for cell in columns.values())] for run in runs]
    return [f"## {title}", table(["seed", "arm", *columns], rows)]


def comparison_section(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    if not comparisons:
        return []
    rows = [
        [
            f"{one['arm']} − {one['baseline']}",
            f"{one['mean']:+.3f}",
            ABSENT if one["interval"] is None else "[{:+.3f}, {:+.3f}]".format(*one["interval"]),
            ", ".join(f"{value:+.3f}" for value in one["differences"]),
        ]
        for one in comparisons
    ]
    return [
        "## Held-out accuracy at equal rollouts, paired by seed",
        table(["difference", "mean", "95 % t interval over seeds", "by seed"], rows),
        "One seed has no interval, and its difference is within the noise of a small held-out set."
        if all(one["interval"] is None for one in comparisons)
        else "",
    ]


def failure_section(failed: Sequence[dict[str, Any]]) -> list[str]:
    if not failed:
        return []
    parts = ["## Failed"]
    for run in failed:
        lines = "\n".join(f"    {line}" for line in run["last_lines"])
        parts += [f"Seed {run['seed']}, {run['arm']}: exit status {run['exit_status']}.", lines]
    return parts


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(tables.table(header, rows))
