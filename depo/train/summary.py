"""The end of a run: the policy as a Hugging Face directory, summary.json, and a few lines for the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depo.evaluation.in_training import EvalResult
from depo.files import directory_aside, write_json
from depo.report.plots import reliability_figure, save
from depo.report.provenance import package_versions, source_commit

if TYPE_CHECKING:
    from depo.train.state import Run

SUMMARY_SCHEMA = 1


def finish(run: Run, after: EvalResult | None) -> dict[str, object]:
    """Write ``policy/``, ``summary.json`` and ``reliability.png``, print what they say; returns the summary.

    There is no picture when the audit window is empty.
    """
    with directory_aside(run.directory / "policy") as aside:
        run.learner.export(aside)
    summary = summarise(run, after)
    write_json(run.directory / "summary.json", summary)
    rows = run.selector.calibration.reliability()
    if rows:
        picture = reliability_figure(rows, f"{run.recipe.name}: audit window")
        save(picture, run.directory / "reliability.png")
    for line in lines(run, after):
        run.console.say(line, always=True)
    return summary


def summarise(run: Run, after: EvalResult | None) -> dict[str, object]:
    recorded = run.ledger.summary()
    return {
        "schema_version": SUMMARY_SCHEMA,
        "name": run.recipe.name,
        "seed": run.recipe.seed,
        "steps": run.step,
        "eval": {
            "before": None if run.before is None else run.before.summary(),
            "after": None if after is None else after.summary(),
        },
        "best": run.best.summary(),
        **recorded,
        "prompts": recorded["prompts"] | {"pool": len(run.pool)},
        "selection": {name: finite(value) for name, value in run.selector.metrics().items()},
        "reliability": run.selector.calibration.reliability(),
        "seconds": run.seconds | {"wall": run.wall_seconds},
        "versions": package_versions() | {"commit": source_commit()},
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value and abs(value) != float("inf") else None


def lines(run: Run, after: EvalResult | None) -> list[str]:
    """The summary for a reader, without repeating the evaluation lines printed before."""
    recorded = run.ledger.summary()["rollouts"]
    saved = run.ledger.saved()
    outcomes = ", ".join(f"{name} {count:,}" for name, count in recorded["by_outcome"].items() if count)
    origins = ", ".join(f"{name} {count:,}" for name, count in recorded["by_origin"].items() if count)
    text = []
    if run.before is not None and after is not None:
        before = run.before.parts | {"all": run.before.all}
        for name, new in (after.parts | {"all": after.all}).items():
            label = "held-out accuracy, all" if name == "all" else f"held-out accuracy, {name} part"
            old = before.get(name)
            if old is not None and new is not None:
                text.append(f"{label}: {old:.3f} → {new:.3f} ({new - old:+.3f})")
    text.append(f"rollouts generated: {recorded['generated']:,} ({outcomes}; by origin: {origins})")
    if saved.rollouts is not None:
        text.append(
            f"rollouts saved against uniform sampling: {saved.rollouts:+,.0f} "
            f"(95 % interval {saved.low:+,.0f} to {saved.high:+,.0f})"
        )
    text.append(f"policy: {run.directory / 'policy'}")
    text.append(f"run: {run.directory} ({run.wall_seconds:.0f} s)")
    return text
