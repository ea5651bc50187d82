"""A probe for readers: the same document on the terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from depo.evaluation.report import described
from depo.report.document import Block, Bullets, CodeBlock, Document, Number, Paragraph, Section, Table
from depo.report.provenance import provenance_blocks

Result = Mapping[str, Any]

BAR = 40  # characters
SUSPECTS = 10  # shown; the JSON has all


def probe_report(result: Result) -> Document:
    return Document(f"Probe of {result['model']['name']}", [*blocks(result), *provenance_blocks(result)])


def blocks(result: Result) -> list[Block]:
    """All but how it was made."""
    return [
        Paragraph(f"{result['rows']}. {described(result)}"),
        histogram_table(result),
        zero_variance_table(result),
        *extrapolation(result),
        health_table(result),
        *(section for kind, some in result["examples"].items() if (section := shown(kind, some))),
        *suspect_blocks(result["suspects"]),
        *replay_blocks(result["replay"]),
        Section("What follows", [Bullets(result["advice"])]),
    ]


def histogram_table(result: Result) -> Table:
    most = max((count for _, count in result["histogram"]), default=0) or 1
    rows = [
        [
            label,
            Number(count, ","),
            Number(count / max(result["prompts"], 1), ".0%"),
            "█" * round(BAR * count / most),
        ]
        for label, count in result["histogram"]
    ]
    head = ["pass rate", "prompts", "share", ""]
    return Table(head, rows, f"How often {result['prompts']:,} prompts were answered rightly")


def zero_variance_table(result: Result) -> Table:
    by = {"counts": "from the counts, unbiased", "beta": "extrapolated, Beta-binomial", "none": "no verdict"}
    rows = [
        [Number(one["group_size"], "d"), Number.of(one["share"], ".1%"), by[one["by"]]]
        for one in result["zero_variance"]
    ]
    caption = "Groups that would teach nothing: all right or all wrong [95 %, bootstrap over prompts]"
    return Table(["group size", "zero-variance share", "estimate"], rows, caption)


def extrapolation(result: Result) -> list[Block]:
    """What the Beta was, and how well it does where the counts tell."""
    fitted = [one for one in result["zero_variance"] if one["by"] == "beta"]
    if not fitted:
        return []
    (a, b), (n, model, counts) = fitted[0]["fit"], fitted[0]["check"]
    return [
        Paragraph(
            f"Extrapolated: pass rates taken to be Beta({a:.2g}, {b:.2g}). At group size {n} that gives "
            f"{Number(model, '.1%')}, the counts give {Number(counts, '.1%')}. The interval does not cover another "
            "shape."
        )
    ]


def health_table(result: Result) -> Table:
    rows = [
        ["accuracy", Number.of(result["avg"], ".1%")],
        ["cut at the token limit", Number.of(result["truncated"], ".1%")],
        ["no answer to be found (unparseable)", Number.of(result["unparseable"], ".1%")],
        ["no verdict (unscorable)", Number(result["unscorable"] / max(result["samples"], 1), ".1%")],
    ]
    return Table(
        ["completions", "share"], rows, f"{result['samples']:,} completions [95 %, bootstrap over prompts]"
    )


def shown(kind: str, some: Sequence[Mapping[str, str]]) -> Section | None:
    if not some:
        return None
    texts = [part for one in some for part in (Paragraph(one["question"]), CodeBlock(f"… {one['end']}"))]
    return Section(f"Completions that were {kind}: how they end", texts)


def suspect_blocks(suspects: Sequence[Mapping[str, Any]] | None) -> list[Block]:
    title = "Gold answers that look wrong"
    if suspects is None:
        return [
            Section(title, [Paragraph("Not looked for: this reward knows no answers that can be compared.")])
        ]
    if not suspects:
        return [Section(title, [Paragraph("None: no prompt is never right, and mostly answered alike.")])]
    rows = [
        [one["question"][:80], one["gold"], one["answer"], f"{one['votes']} of {one['n']}"]
        for one in suspects[:SUSPECTS]
    ]
    more = f" {len(suspects)} in all; probe.json has the others." if len(suspects) > SUSPECTS else ""
    return [
        Section(
            title,
            [
                Paragraph(
                    "Never right, but at least half of the completions agree on another answer. Look at them: it may "
                    f"also be a mistake that the policy always makes.{more}"
                ),
                Table(["prompt", "gold answer", "majority", "votes"], rows),
            ],
        )
    ]


def replay_blocks(replay: Mapping[str, Any]) -> list[Block]:
    title = "What choosing prompts would save"
    if replay["why_not"]:
        return [Section(title, [Paragraph(f"Not replayed: {replay['why_not']}.")])]
    rows = [
        [one["estimator"], one["rule"], Number.of(one["informative"], ".1%"), Number.of(one["saved"], ".0%")]
        for one in replay["pairs"]
    ]
    caption = (
        f"A quarter of {replay['prompts']:,} prompts a step, groups of {replay['group_size']}, "
        f"{replay['visits']} steps [95 % over seeds]; uniform sampling: {replay['uniform']:.1%} informative"
    )
    return [
        Section(
            title,
            [
                Table(["estimator", "rule", "informative groups", "rollouts saved"], rows, caption),
                Paragraph(
                    f"This is a replay of the probe. It tells what an estimator knows after at most "
                    f"{replay['visits'] - 1} steps of a policy that does not move; in training it sees more, and what "
                    "it knows grows old. hybrid does without the prefill probe here. Intervals cover the draws "
                    "of selection, not the choice of prompts. Which rule trains best only a run tells."
                ),
            ],
        )
    ]
