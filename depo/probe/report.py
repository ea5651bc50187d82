"""A probe for readers: the same document on the terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depo.report.document import Block, Bullets, CodeBlock, Document, Number, Paragraph, Section, Table, Text
from depo.report.provenance import provenance_blocks

Result = Mapping[str, Any]

BAR = 40  # characters
CELL = 60
SUSPECTS = 10  # shown; the JSON has all
BY = {"counts": "unbiased, from the counts", "beta": "extrapolated, Beta-binomial", "none": "no verdict"}

SUSPECT = (
    "Never right, but at least half of the completions agree on another answer. Look at them: it may also be "
    "a mistake that the policy always makes."
)
LIMITS = (
    "A replay of the probe: what an estimator makes of a few steps of a policy that does not move. In "
    "training it sees more, and what it knows grows old. Intervals cover the draws of selection, not the "
    "choice of prompts. Which rule trains best, only a run tells."
)


def probe_report(result: Result) -> Document:
    return Document(f"Probe of {result['model']['name']}", [*blocks(result), *provenance_blocks(result)])


def blocks(result: Result) -> list[Block]:
    """All but how it was made."""
    suite, drawn = result["suite"], result["suite"]["sampling"]
    how = (
        f"{drawn['n']} rollouts a prompt, temperature {drawn['temperature']:g}, at most "
        f"{drawn['max_new_tokens']:,} tokens; seed {suite['seed']}, engine {suite['engine']}"
    )
    return [
        Paragraph(f"{result['rows']}. {how}."),
        histogram_table(result),
        *zero_variance_blocks(result),
        *completion_blocks(result),
        Section("Gold answers that look wrong", suspect_blocks(result)),
        Section("What choosing prompts would save", replay_blocks(result["replay"])),
        Section("What follows", [Bullets(result["advice"])]),
    ]


def histogram_table(result: Result) -> Table:
    prompts, found = result["prompts"], result["histogram"]
    most = max(count for _, count in found) or 1
    rows: list[list[Text]] = [
        [label, Number(count, ","), Number(count / prompts, ".0%"), "█" * round(BAR * count / most)]
        for label, count in found
    ]
    return Table(
        ["pass rate", "prompts", "share", ""], rows, f"How often {prompts:,} prompts were answered right"
    )


def zero_variance_blocks(result: Result) -> list[Block]:
    """The shares, and how well the Beta does where the counts tell."""
    found = result["zero_variance"]
    rows: list[list[Text]] = [
        [Number(one["group_size"], "d"), Number.of(one["share"], ".1%"), BY[one["by"]]] for one in found
    ]
    what = "Groups that would teach nothing, all right or all wrong [95 %, bootstrap over prompts]:"
    told: list[Block] = [Paragraph(what), Table(["group size", "zero-variance share", "estimate"], rows)]
    for one in [one for one in found if one["by"] == "beta"][:1]:
        (a, b), (n, model, counts) = one["fit"], one["check"]
        text = (
            f"Extrapolated: as if pass rates were Beta({a:.2g}, {b:.2g}), which at group size {n} gives "
            f"{Number(model, '.1%')}; the counts give {Number(counts, '.1%')}."
        )
        told.append(Paragraph(text))
    return told


def completion_blocks(result: Result) -> list[Block]:
    """How many were cut or unreadable, with examples."""
    samples = result["samples"]
    rows: list[list[Text]] = [
        ["right", Number.of(result["avg"], ".1%")],
        ["cut at the token limit", Number.of(result["truncated"], ".1%")],
        ["without an answer that can be read", Number.of(result["unparseable"], ".1%")],
        ["without a verdict", Number(result["unscorable"] / samples, ".1%")],
    ]
    told: list[Block] = [Table(["completions", "share"], rows, f"{samples:,} completions")]
    for kind, some in result["examples"].items():
        ends = [part for one in some for part in (Paragraph(one["question"]), CodeBlock(f"… {one['end']}"))]
        if ends:
            told.append(Section(f"Some that were {kind}: how they end", ends))
    return told


def suspect_blocks(result: Result) -> list[Block]:
    found = result["suspects"]
    if found is None:
        return [Paragraph("Not looked for: this reward knows no answers that can be compared.")]
    if not found:
        return [Paragraph("None: no prompt was never answered right and mostly answered alike.")]
    rows = [
        [*(cell(one[name]) for name in ("question", "gold", "answer")), f"{one['votes']} of {one['n']}"]
        for one in found[:SUSPECTS]
    ]
    more = f", the first {SUSPECTS}" if len(found) > SUSPECTS else ""
    caption = f"{len(found):,} of {result['prompts']:,} prompts{more}"
    return [Paragraph(SUSPECT), Table(["prompt", "gold answer", "majority's answer", "share"], rows, caption)]


def cell(text: str) -> str:
    """On one line of a table."""
    return " ".join(text.split())[:CELL]


def replay_blocks(replay: Result) -> list[Block]:
    if replay["why_not"]:
        return [Paragraph(f"Not replayed: {replay['why_not']}.")]
    rows = [
        [one["estimator"], one["rule"], Number.of(one["informative"], ".1%"), Number.of(one["saved"], ".0%")]
        for one in replay["pairs"]
    ]
    how = (
        f"{replay['prompts']:,} prompts, groups of {replay['group_size']}, a quarter of the prompts a step, "
        f"{replay['visits']} steps [95 % over seeds]. Of groups drawn uniformly, {replay['uniform']:.1%} are "
        "informative."
    )
    table = Table(["estimator", "rule", "informative groups", "rollouts saved"], rows)
    return [Paragraph(how), table, Paragraph(LIMITS)]
