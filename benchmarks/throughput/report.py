"""A throughput result for readers: figures against targets, then everything measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.report import coded
from depo.report.document import (
    UNKNOWN,
    Block,
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

FIGURES = {
    "samples_per_second": ("samples/s", ",.1f"),
    "learner_tokens_per_second": ("learner tokens/s", ",.0f"),
    "step_seconds": ("seconds a step", ".3f"),
    "generate_seconds": ("of which generating and scoring", ".3f"),
    "update_seconds": ("update, seconds", ".3f"),
    "tokens_per_step": ("tokens a step", ",.0f"),
    "startup_seconds": ("start-up, seconds", ".1f"),
    "peak_memory_mib": ("peak memory, MiB", ",.0f"),
}
SHARES = {
    "generation": "generate",
    "update, as the learner measures it": "update",
    "verification": "verify",
    "evaluation": "evaluate",
    "the driver itself": "driver",
    "— of which selection": "select",
    "— of which waiting for the estimator beyond the update": "estimate_exposed",
    "estimator behind the update (hidden, not in the sum)": "estimate_hidden",
}


def report(result: Mapping[str, Any]) -> Document:
    return Document(
        "Throughput beside TRL's GRPOTrainer",
        [
            *provenance_blocks(result),
            targets(result),
            Figure("", "depo's advantage over TRL, with 95 % intervals", partial(draw, result)),
            end_to_end(result),
            Section("The update alone", update_blocks(result)),
            Section("The driver's own share of a step", driver_blocks(result["driver"])),
        ],
    )


def targets(result: Mapping[str, Any]) -> Table:
    """Each figure beside what it was meant to reach."""
    short, long = (
        result[name]["summary"]["samples_per_second"]["advantage"]
        for name in ("end_to_end", "end_to_end_long")
    )
    alone = result["update"]["summary"]["learner_tokens_per_second"]["advantage"]
    live, far = (result["driver"][f"critical_path_share{suffix}"] for suffix in ("", "_long_step"))
    rows: list[list[Text]] = [
        *(
            [f"{what}, depo ÷ TRL", ratio(found), f"≥ {least}×", verdict(found["geometric_mean"] >= least)]
            for what, found, least in (
                ("end-to-end samples/s, answers of a few tokens", short, 1.3),
                ("end-to-end samples/s, lengths spread as they fall", long, 1.3),
                ("learner tokens/s, lengths spread 1:8", alone, 1.5),
            )
        ),
        [
            coded(
                "estimator (without the prefill probe) and selection on the critical path, sub-second steps"
            ),
            f"{live:.2%}",
            "≤ 2 %",
            verdict(live <= 0.02),
        ],
        ["the same seconds in a step of 120 s", f"{far:.3%}", "≤ 0.2 %", verdict(far <= 0.002)],
    ]
    return Table(["", "measured", "target", ""], rows)


PARTS = {"end_to_end": "short answers", "end_to_end_long": "lengths as they fall", "update": "update alone"}


def draw(result: Mapping[str, Any]) -> Drawing:
    """depo's advantage in every figure, one colour a part, with its interval where there is one."""
    picture = new_figure(7, 4.2)
    axes = picture.subplots()
    names = [name for name in FIGURES if name != "tokens_per_step"]
    for part, (key, label) in enumerate(PARTS.items()):
        found = {n: one["advantage"] for n, one in result[key]["summary"].items() if n in names}
        for name, advantage in found.items():
            middle = advantage["geometric_mean"]
            low, high = advantage["low"] or middle, advantage["high"] or middle
            axes.errorbar(
                middle,
                names.index(name) + 0.2 * (part - 1),
                xerr=[[middle - low], [high - middle]],
                fmt="o",
                color=f"C{part}",
                markersize=4,
                label=label if name == next(iter(found)) else None,
            )
    axes.axvline(1, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), [FIGURES[name][0].removeprefix("of which ") for name in names])
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("advantage over TRL (above 1: depo is better)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return picture


def verdict(reached: bool) -> Text:
    return "reached" if reached else Strong("missed")


def ratio(advantage: Mapping[str, Any]) -> str:
    """Geometric mean over pairs, with its interval where there is one."""
    mean = f"{advantage['geometric_mean']:.2f}×"
    if advantage["low"] is None:
        return f"{mean} (one pair, no interval)"
    return f"{mean} ({advantage['low']:.2f} to {advantage['high']:.2f})"


def summary_table(summary: Mapping[str, Any]) -> Table:
    rows: list[list[Text]] = []
    for name, (label, form) in FIGURES.items():
        if name in summary:
            sides = (summary[name][side] for side in ("depo", "trl"))
            shown = (f"{one['median']:{form}} ({one['min']:{form}}–{one['max']:{form}})" for one in sides)
            better = UNKNOWN if name == "tokens_per_step" else ratio(summary[name]["advantage"])
            rows.append([label, *shown, better])
    return Table(["", "depo", "TRL", "depo's advantage"], rows)


def end_to_end(result: Mapping[str, Any]) -> Section:
    sizes = result["settings"]
    work = (
        f"{sizes['model']}: {sizes['prompts']} prompts × {sizes['group_size']} rollouts a step, "
        f"{sizes['repeats']} pairs of runs in alternating order, {sizes['threads']} thread(s), float32, "
        "DAPO's loss, AdamW, no KL penalty, no selection, exact match, generation by transformers on both "
        "sides."
    )
    columns = (
        "Medians with smallest and largest; the advantage is the geometric mean of the paired ratios (above "
        "1: depo is better) with its 95 % t interval. Learner tokens are prompt and completion tokens "
        "without padding, over the seconds of the update: for depo what the driver waits, for TRL the step "
        "without generating and scoring (on policy it computes no old log-probabilities). Start-up is from "
        "the start of the process to the first step. Memory is the sum of proportional set sizes (PSS) of "
        "the process and all it started, Ray's own included, sampled four times a second."
    )
    blocks: list[Block] = [Paragraph(work), Paragraph(columns)]
    for title, name in (
        ("Answers of a few tokens", "end_to_end"),
        ("Lengths as they fall", "end_to_end_long"),
    ):
        found = result[name]
        sizes = found["settings"]
        timed = (
            f"{sizes['steps']} steps timed after one to warm up; a pass holds up to {sizes['micro_rows']} "
            "rows with TRL, and as many tokens as that many of the longest with depo."
        )
        heading = f"{title}: at most {sizes['max_new_tokens']} new tokens"
        blocks.append(Section(heading, [Paragraph(timed), summary_table(found["summary"])]))
    return Section("End to end", blocks)


def update_blocks(result: Mapping[str, Any]) -> list[Block]:
    sizes, update = result["settings"], result["update"]
    depo, trl = (update["pairs"][0][side]["padding_share"] for side in ("depo", "trl"))
    agreed = update["agreement"]
    return [
        Paragraph(
            f"One batch of {sizes['rows']} rows, prompts of {sizes['row_prompt_tokens']} tokens, completions "
            f"of {round(sizes['longest'] / sizes['spread'])} to {sizes['longest']} tokens, evenly spread. "
            f"Memory budget of a pass: {sizes['row_micro_rows']} of the longest rows. {sizes['updates']} "
            f"updates timed after one to warm up. Padding: {depo:.0%} of depo's tokens, {trl:.0%} of TRL's."
        ),
        Paragraph(
            f"It is the same work: the losses differ by {agreed['loss_difference']:.1g}, the cosine between "
            f"the two gradients is 1 − {1 - agreed['cosine']:.1g}, their norms differ by "
            f"{agreed['norm_difference']:.1g}."
        ),
        summary_table(update["summary"]),
    ]


def driver_blocks(driver: Mapping[str, Any]) -> list[Block]:
    setting = (
        "depo with the estimator `hybrid` that does not ask the policy (the quickstart's does, which costs a "
        "prefill of every candidate) and the rule `thompson` over the whole pool, at the quickstart's sizes: "
        f"{driver['steps']} steps of {driver['step_seconds']:.2f} s, {driver['groups_per_step']:.0f} groups "
        f"a step with refill, the rule at work in {driver['selecting_share']:.0%} of them. Outcomes come "
        "from a reward that gives each prompt a known pass rate."
    )
    rows: list[list[Text]] = [
        [Strong(label) if name == "driver" else label, Number(driver["shares"][name], ".2%")]
        for label, name in SHARES.items()
    ]
    return [
        Paragraph(coded(setting)),
        Table(["", "share of the wall time"], rows),
        Paragraph(
            f"Selection takes {1000 * driver['select_seconds']:.1f} ms a step. With the estimator's time "
            f"that no update hides it is {driver['critical_path_share']:.2%} of these steps and would be "
            f"{driver['critical_path_share_long_step']:.3%} of steps of 120 s."
        ),
    ]
