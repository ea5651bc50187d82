"""The throughput document as Markdown: figures against targets, then everything measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depo.report.provenance import provenance_lines


@dataclass(frozen=True, slots=True)
class Target:
    """``at_most``: the figure must not exceed ``value``; else it must reach it."""

    name: str
    value: float
    at_most: bool = False

    def reached(self, figure: float) -> bool:
        return figure <= self.value if self.at_most else figure >= self.value


SHORT = Target("end-to-end samples/s, answers of a few tokens, depo ÷ TRL", 1.3)


LONG_ANSWERS = Target("end-to-end samples/s, lengths spread as they fall, depo ÷ TRL", 1.3)


UPDATE = Target("learner tokens/s, lengths spread 1:8, depo ÷ TRL", 1.5)


LIVE = Target(
    "estimator (`features: none`) and selection on the critical path, sub-second steps", 0.02, at_most=True
)


LONG = Target("the same seconds in a step of 120 s", 0.002, at_most=True)


FIGURES = {
    "samples_per_second": ("samples/s", "{:,.1f}"),
    "learner_tokens_per_second": ("learner tokens/s", "{:,.0f}"),
    "step_seconds": ("seconds a step", "{:.3f}"),
    "generate_seconds": ("of which generating and scoring", "{:.3f}"),
    "update_seconds": ("update, seconds", "{:.3f}"),
    "tokens_per_step": ("tokens a step", "{:,.0f}"),
    "startup_seconds": ("start-up, seconds", "{:.1f}"),
    "peak_memory_mib": ("peak memory, MiB", "{:,.0f}"),
}


def markdown(document: dict[str, Any], path: Path) -> str:
    """``path`` (without suffix) is not used: there are no plots."""
    lines = [
        "# Throughput beside TRL's GRPOTrainer",
        "",
        *provenance_lines(document),
        "",
        *targets_table(document),
        "",
        *end_to_end_section(document),
        "",
        *update_section(document),
        "",
        *driver_section(document["driver"]),
        "",
    ]
    return "\n".join(lines)


def targets_table(document: dict[str, Any]) -> list[str]:
    short, spread_out = (
        document[name]["summary"]["samples_per_second"]["advantage"]
        for name in ("end_to_end", "end_to_end_long")
    )
    alone = document["update"]["summary"]["learner_tokens_per_second"]["advantage"]
    live, long = (document["driver"][f"critical_path_share{suffix}"] for suffix in ("", "_long_step"))
    rows = [
        (SHORT, short["geometric_mean"], ratio(short), "≥ 1.3×"),
        (LONG_ANSWERS, spread_out["geometric_mean"], ratio(spread_out), "≥ 1.3×"),
        (UPDATE, alone["geometric_mean"], ratio(alone), "≥ 1.5×"),
        (LIVE, live, f"{live:.2%}", "≤ 2 %"),
        (LONG, long, f"{long:.3%}", "≤ 0.2 %"),
    ]
    return [
        "| | measured | target | |",
        "|---|---|---|---|",
        *(
            f"| {target.name} | {shown} | {wanted} | {verdict(target, figure)} |"
            for target, figure, shown, wanted in rows
        ),
    ]


def verdict(target: Target, figure: float) -> str:
    return "reached" if target.reached(figure) else "**missed**"


def ratio(advantage: dict[str, Any]) -> str:
    """Geometric mean over pairs, with its interval where there is one."""
    mean = f"{advantage['geometric_mean']:.2f}×"
    if advantage["low"] is None:
        return f"{mean} (one pair, no interval)"
    return f"{mean} ({advantage['low']:.2f} to {advantage['high']:.2f})"


def summary_table(summary: dict[str, Any]) -> list[str]:
    lines = ["| | depo | TRL | depo's advantage |", "|---|---|---|---|"]
    for name, (label, form) in FIGURES.items():
        if name in summary:
            found = summary[name]
            depo, trl = (spread(found[side], form) for side in ("depo", "trl"))
            better = "–" if name == "tokens_per_step" else ratio(found["advantage"])
            lines.append(f"| {label} | {depo} | {trl} | {better} |")
    return lines


def spread(values: dict[str, float], form: str) -> str:
    median, low, high = (form.format(values[name]) for name in ("median", "min", "max"))
    return f"{median} ({low}–{high})"


def end_to_end_section(document: dict[str, Any]) -> list[str]:
    sizes = document["settings"]
    return [
        "## End to end",
        "",
        f"{sizes['model']}: {sizes['prompts']} prompts × {sizes['group_size']} rollouts a step, "
        f"{sizes['repeats']} pairs of runs in alternating order, {sizes['threads']} thread(s), float32, "
        "DAPO's loss, AdamW, no KL penalty, no selection, exact match, generation by transformers on both "
        "sides.",
        "",
        "Medians with smallest and largest; the advantage is the geometric mean of the paired ratios (above "
        "1: depo is better) with its 95 % t interval. *Learner tokens* are prompt and completion tokens "
        "without padding, over the seconds of the update: for depo what the driver waits, for TRL the step "
        "without generating and scoring (on policy it computes no old log-probabilities). *Start-up* is from "
        "the start of the process to the first step; *memory* the sum of proportional set sizes (PSS) of the "
        "process and all it started, Ray's own included, sampled four times a second.",
        "",
        *one_end_to_end("Answers of a few tokens", document["end_to_end"]),
        "",
        *one_end_to_end("Lengths as they fall", document["end_to_end_long"]),
    ]


def one_end_to_end(title: str, found: dict[str, Any]) -> list[str]:
    sizes = found["settings"]
    return [
        f"### {title}: at most {sizes['max_new_tokens']} new tokens",
        "",
        f"{sizes['steps']} steps timed after one to warm up; a pass holds up to {sizes['micro_rows']} rows "
        "with TRL, and as many tokens as that many of the longest with depo.",
        "",
        *summary_table(found["summary"]),
    ]


def update_section(document: dict[str, Any]) -> list[str]:
    sizes, update = document["settings"], document["update"]
    depo, trl = (update["pairs"][0][side]["padding_share"] for side in ("depo", "trl"))
    agreed = update["agreement"]
    return [
        "## The update alone",
        "",
        f"One batch of {sizes['rows']} rows, prompts of {sizes['row_prompt_tokens']} tokens, completions of "
        f"{round(sizes['longest'] / sizes['spread'])} to {sizes['longest']} tokens, evenly spread. "
        f"Memory budget of a pass: {sizes['row_micro_rows']} of the longest rows. {sizes['updates']} updates "
        f"timed after one to warm up. Padding: {depo:.0%} of depo's tokens, {trl:.0%} of TRL's.",
        "",
        f"It is the same work: the losses differ by {agreed['loss_difference']:.1g}, the cosine between the "
        f"two gradients is 1 − {1 - agreed['cosine']:.1g}, their norms differ by "
        f"{agreed['norm_difference']:.1g}.",
        "",
        *summary_table(update["summary"]),
    ]


def driver_section(driver: dict[str, Any]) -> list[str]:
    shares = driver["shares"]
    shown = {
        "generation": "generate",
        "update, as the learner measures it": "update",
        "verification": "verify",
        "evaluation": "evaluate",
        "**the driver itself**": "driver",
        "— of which selection": "select",
        "— of which waiting for the estimator beyond the update": "estimate_exposed",
        "estimator behind the update (hidden, not in the sum)": "estimate_hidden",
    }
    return [
        "## The driver's own share of a step",
        "",
        "depo with `estimator: hybrid` that does not ask the policy (`features: none`, `recall: 0`; the "
        "quickstart's does, which costs a prefill of every candidate) and `thompson` over the whole pool, at "
        f"the quickstart's sizes: {driver['steps']} steps "
        f"of {driver['step_seconds']:.2f} s, {driver['groups_per_step']:.0f} groups a step with refill, the "
        f"rule at work in {driver['selecting_share']:.0%} of them. Outcomes come from a reward that gives "
        "each prompt a known pass rate.",
        "",
        "| | share of the wall time |",
        "|---|---|",
        *(f"| {label} | {shares[name]:.2%} |" for label, name in shown.items()),
        "",
        f"Selection takes {1000 * driver['select_seconds']:.1f} ms a step. With the estimator's time that no "
        f"update hides it is {driver['critical_path_share']:.2%} of these steps and would be "
        f"{driver['critical_path_share_long_step']:.3%} of steps of 120 s.",
    ]
