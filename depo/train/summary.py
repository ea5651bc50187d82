"""The end of a run: the policy as a Hugging Face directory, summary.json, a verdict, and a few lines for the
reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from depo.errors import RunFailed
from depo.evaluation.in_training import EvalResult
from depo.files import directory_aside, seal, write_json
from depo.report.plots import reliability_figure, save
from depo.report.provenance import package_versions, source_commit
from depo.report.statistics import DIFFERENCE, estimate, paired

if TYPE_CHECKING:
    from depo.train.state import Run

SUMMARY_SCHEMA = 1

RESAMPLES = 1000
"""Of the bootstrap behind the interval of a gain."""


def finish(run: Run, after: EvalResult | None) -> dict[str, object]:
    """Write ``policy/``, ``summary.json`` and ``reliability.png``, print what they say; returns the summary.

    There is no picture when the audit window is empty. Raises RunFailed, after all that, when nothing was
    trained: such a run must not look like one that is done.
    """
    with directory_aside(run.directory / "policy") as aside:
        run.learner.export(aside)
        seal(aside)
    summary = summarise(run, after)
    write_json(run.directory / "summary.json", summary)
    rows = run.selector.calibration.reliability()
    if rows:
        picture = reliability_figure(rows, f"{run.recipe.name}: audit window")
        save(picture, run.directory / "reliability.png")
    for line in lines(run, after):
        run.console.say(line, always=True)
    if (empty := nothing_trained(run)) is not None:
        raise RunFailed(f"{empty}; {run.directory / 'policy'} is the policy that the run started from")
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
        "gain": gains(run, after),
        "verdict": verdict(run, after),
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


def gains(run: Run, after: EvalResult | None) -> dict[str, list[float | None]]:
    """[mean, low, high] of accuracy after minus before training, with its 95 % interval over the prompts that
    have both: ``heldout`` and each set."""
    if run.before is None or after is None:
        return {}
    found = {}
    for name, old in run.before.each.items():
        new, old_by_prompt = by_place(after.each.get(name, [])), by_place(old)
        differences_N, weights_RN = paired(new, old_by_prompt, RESAMPLES, run.recipe.seed, name)
        found[name] = estimate(differences_N, weights_RN, DIFFERENCE)
    return found


def by_place(accuracies: list[float | None]) -> Mapping[str, float]:
    return {f"{place:09d}": np.nan if one is None else one for place, one in enumerate(accuracies)}


def verdict(run: Run, after: EvalResult | None) -> list[str]:
    """What the run came to, in plain sentences, the gravest first."""
    said = [] if (empty := nothing_trained(run)) is None else [empty]
    said += [f"at the end, {warning}" for warning in run.alarms.standing()]
    found = gains(run, after)
    for name, (mean, low, high) in found.items():
        what = "held-out accuracy" if name == "heldout" else f"accuracy on {name}"
        if mean is None or low is None or high is None:
            said.append(f"{what}: nothing to compare, for want of verdicts before or after training")
            continue
        how = "rose" if low > 0 else "fell" if high < 0 else "did not change measurably"
        prompts = len(run.before.each[name]) if run.before else 0
        said.append(
            f"{what} {how}: {mean:+.3f} (95 % interval {low:+.3f} to {high:+.3f}, "
            f"paired over {prompts:,} prompts)"
        )
    if not found:
        said.append(
            "no gain was measured: it needs evaluation.at_start and at_end, and held-out prompts or sets"
        )
    if not run.alarms.totals["choosing"]:
        said.append(f"selection stayed uniform throughout: {why_uniform(run)}")
    return said


def nothing_trained(run: Run) -> str | None:
    """Why the policy is still the one that the run started from; None where it has learned."""
    totals = run.alarms.totals
    groups, informative = run.ledger.groups["generated"], run.ledger.groups["effective"]
    if not informative:
        outcomes = run.ledger.summary()["rollouts"]["by_outcome"]
        became = ", ".join(f"{name} {count:,}" for name, count in outcomes.items() if count)
        return f"nothing was trained: of {groups:,} groups not one could be learned from (rollouts: {became})"
    if not totals["optimizer_steps"]:
        return f"nothing was trained: not one optimizer step in {run.step} steps, as no gradient was finite"
    if not totals["moving"]:
        steps = totals["optimizer_steps"]
        return f"nothing was trained: {steps:,} optimizer steps changed no weight; see learner.lr"
    return None


def why_uniform(run: Run) -> str:
    selection, gate = run.recipe.selection, run.selector.calibration
    if selection.type == "uniform":
        return "selection.type says so"
    if run.step <= run.selector.settings.warmup_steps:
        return f"the run was over within selection.warmup_steps {run.selector.settings.warmup_steps}"
    if gate.seeing < gate.min_window:
        blind = len(gate.graded) - gate.seeing
        alike = f"; for {blind} others the estimator predicted all prompts of the step alike" if blind else ""
        return (
            f"only {gate.seeing} of the {gate.min_window} uniformly drawn groups that the gate asks for "
            f"(selection.min_window) could be graded{alike}"
        )
    skill = gate.metrics().get("skill", float("nan"))
    return (
        f"the estimator was not reliably better than the base rate on {gate.seeing} uniformly drawn "
        f"groups (skill {skill:+.2f})"
    )


def lines(run: Run, after: EvalResult | None) -> list[str]:
    """The summary for a reader, without repeating the evaluation lines printed before."""
    recorded = run.ledger.summary()["rollouts"]
    saved = run.ledger.saved()
    outcomes = ", ".join(f"{name} {count:,}" for name, count in recorded["by_outcome"].items() if count)
    origins = ", ".join(f"{name} {count:,}" for name, count in recorded["by_origin"].items() if count)
    text = [f"verdict: {sentence}" for sentence in verdict(run, after)]
    if run.before is not None and after is not None:
        before = run.before.parts | {"all": run.before.all}
        for name, new in (after.parts | {"all": after.all}).items():
            label = "held-out accuracy, all" if name == "all" else f"held-out accuracy, {name} part"
            old = before.get(name)
            if old is not None and new is not None:
                text.append(f"{label}: {old:.3f} → {new:.3f} ({new - old:+.3f})")
    text.append(f"rollouts generated: {recorded['generated']:,} ({outcomes})")
    text.append(f"rollouts by origin: {origins}")
    used = run.ledger.generated
    if saved.rollouts is not None and saved.low is not None and saved.high is not None:
        text.append(
            f"uniform sampling would have needed {used + saved.rollouts:,.0f} rollouts "
            f"(95 %: {used + saved.low:,.0f} to {used + saved.high:,.0f}); used: {used:,}"
        )
    text.append(f"policy: {run.directory / 'policy'}")
    text.append(f"run: {run.directory} ({run.wall_seconds:.0f} s)")
    return text
