"""The page of one run or several: figures where a reader looks for them, charts, and the rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from depo.page.comparison import comparison
from depo.page.panels import RECENT, panels
from depo.page.rollouts import rollouts_data
from depo.page.run_data import NEWEST, RunData, read_run
from depo.report.document import Block, Bullets, Number, Paragraph, Section, Table
from depo.report.html import page, to_body
from depo.trackers.console import UNIFORM_GROUPS, slowest_part

SCRIPT = Path(__file__).with_name("page.js")

ROLLOUT_BYTES = 3_000_000
"""For the rollouts of all runs on a page."""


def run_page(paths: Sequence[Path]) -> str:
    """The HTML. Raises UserError for what is no run directory, and for damaged files in one."""
    runs = [read_run(path) for path in paths]
    names = told_apart(runs)
    rollouts = [rollouts_data(run.path, ROLLOUT_BYTES // len(runs)) for run in runs]
    data = {
        "runs": names,
        "warnings": [[step for step, _ in run.warnings] for run in runs],
        "rollouts": rollouts,
        **panels([run.rows for run in runs], [run.reliability for run in runs]),
    }
    if len(runs) == 1:
        title, top = runs[0].name, head(runs[0]) + to_body([Bullets(verdict(runs[0]))])
    else:
        title = f"{len(runs)} runs"
        top = f"<header><h1>{title}</h1></header>{to_body(comparison(runs))}"
    below: list[Block] = []
    for run, name in zip(runs, names, strict=True):
        below += details(run) if len(runs) == 1 else [Section(name, details(run))]
    body = [top, '<section id="charts"><noscript>Charts and rollouts need JavaScript.</noscript></section>']
    body += [to_body(below), '<h2>Rollouts</h2><section id="rollouts"></section>' if any(rollouts) else ""]
    return page(f"{title} · depo", "\n".join(body), SCRIPT.read_text(encoding="utf-8"), data)


def told_apart(runs: Sequence[RunData]) -> list[str]:
    """Their names; where several have the same, with the seed, and if that does not help with the path."""
    names = [run.name for run in runs]
    seeded = [f"{run.name}, seed {run.recipe.seed}" if run.recipe else str(run.path) for run in runs]
    return [
        name if names.count(name) == 1 else with_seed if seeded.count(with_seed) == 1 else str(run.path)
        for name, with_seed, run in zip(names, seeded, runs, strict=True)
    ]


def head(run: RunData) -> str:
    """Name, state, and the figures that are looked at first."""
    state = "finished" if run.summary else "ended by a guard" if run.ended else "not finished"
    facts = [f"step {run.rows[-1]['step']:,}"]
    if recipe := run.recipe:
        facts = [
            str(getattr(recipe.policy, "model", recipe.policy.type)),
            f"estimator {recipe.estimator.type}, rule {recipe.selection.type}",
            f"{recipe.batch.prompts:,} × {recipe.batch.group_size} rollouts a step",
            f"seed {recipe.seed}",
            f"{facts[0]} of {recipe.steps:,}",
        ]
    cells = "".join(
        f'<div class="tile{" bad" if bad else ""}"><span>{escape(name)}</span><b>{escape(value)}</b>'
        f"<small>{escape(note)}</small></div>"
        for name, value, note, bad in tiles(run)
    )
    mark = f'<span class="state {"good" if run.summary else "open"}">{state}</span>'
    about = f"<h1>{escape(run.name)} {mark}</h1><p>{escape(' · '.join(facts))}</p>"
    return f'<header>{about}</header><section class="tiles">{cells}</section>'


def tiles(run: RunData) -> Iterator[tuple[str, str, str, bool]]:
    """Name, figure, what it means, whether it is bad news."""
    held_out, recent = run.known("eval/all"), run.last(RECENT)
    if held_out:
        gain = Number.of(((run.summary or {}).get("gain") or {}).get("heldout"), "+.3f")
        note = f"{held_out[0]:.3f} at first" + (f"; {gain}" if gain.value is not None else "")
        yield "Held-out accuracy", f"{held_out[-1]:.3f}", note, False
    elif recent is not None:
        yield "Accuracy", f"{recent:.3f}", f"newest {UNIFORM_GROUPS} uniformly drawn prompts", False
    if empty := run.known("zero_variance_share"):
        teaches = "" if baseline_is_group(run) else "; with this baseline they teach, too"
        note = f"newest {NEWEST} steps; {empty[0]:.0%} in the first{teaches}"
        yield "Zero-variance groups", f"{run.newest('zero_variance_share'):.0%}", note, False
    if (saved := run.saved.value) is not None:
        share = saved / max(run.used + saved, 1)
        note = f"{share:.0%} of what uniform sampling would have needed"
        yield "Rollouts saved", f"{saved:+,.0f}", f"{note}; used {run.used:,}", saved < 0
    if (seconds := run.newest("seconds/step")) is not None:
        note = f"newest {NEWEST} steps; slowest part of the last: {slowest_part(run.rows[-1])}"
        yield "Seconds a step", f"{seconds:.3g}", note, False
    if run.recipe is not None:
        rang = len(run.warnings)
        yield "Warnings", str(rang), "listed below the charts" if rang else "no guard rang", rang > 0


def baseline_is_group(run: RunData) -> bool:
    return run.recipe is None or run.recipe.learner.baseline.type == "group"


def verdict(run: RunData) -> list[str]:
    """What the run came to, in its own sentences, and what it saved."""
    said = list(run.summary["verdict"]) if run.summary else [run.ended] if run.ended else []
    saved = run.saved
    if saved.value is None:
        return said
    need = Number.of(
        [None if one is None else run.used + one for one in (saved.value, saved.low, saved.high)], ",.0f"
    )
    if baseline_is_group(run):
        return [
            *said,
            f"Uniform sampling until as many groups teach, as DAPO does it, would have needed {need} "
            f"rollouts; this run used {run.used:,}.",
        ]
    return [
        *said,
        f"Uniform sampling would have needed {need} rollouts for as much signal; this run used {run.used:,}. "
        "DAPO's own figure is not known: to this baseline, groups without variance teach too.",
    ]


def details(run: RunData) -> list[Block]:
    """Which warnings rang, and what became of the rollouts: the ledger's two breakdowns."""
    blocks: list[Block] = []
    if run.recipe is None:
        blocks.append(
            Paragraph("Warnings are not shown: recipe.yaml cannot be read by this version of depo.")
        )
    elif run.warnings:
        blocks.append(Section("Warnings that rang", [Bullets([text for _, text in run.warnings])]))
    if run.summary is not None:
        rollouts, tokens = run.summary["rollouts"], run.summary["tokens"]
        tables = [
            Table(
                [by, "rollouts", "share", "tokens"],
                [
                    [
                        name,
                        Number(n, ","),
                        Number(n / max(run.used, 1), ".1%"),
                        Number(tokens[f"by_{by}"][name], ","),
                    ]
                    for name, n in rollouts[f"by_{by}"].items()
                    if n
                ],
            )
            for by in ("outcome", "origin")
        ]
        blocks.append(Section("What the rollouts became", tables))
    return blocks
