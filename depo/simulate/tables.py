"""What simulations came to, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from depo.report.document import Number, Table

if TYPE_CHECKING:
    from depo.recipe.schema import Recipe
    from depo.simulate.world import Lengths, PassRates

PHASES = ("select", "generate", "verify", "update", "estimate", "sync", "wait")


def heading(recipe: Recipe, pool: int, lengths: Lengths, rates: PassRates) -> str:
    """What the figures are about."""
    batch = recipe.batch
    return (
        f"{recipe.name}: {batch.prompts:,} prompts x {batch.group_size} a step, from {pool:,} prompts, "
        f"{rates.never:.0%} never and {rates.always:.0%} always solved; completions of {lengths.median:,.0f} "
        f"tokens, p99 {lengths.p99:,.0f}, at most {recipe.rollout.max_new_tokens:,}"
    )


def by_engines(results: Sequence[dict[str, Any]]) -> Table:
    """Seconds of a step, by number of engines."""
    phases = [name for name in PHASES if any(one["phases"].get(name) for one in results)]
    rows = [
        [
            Number(one["engines"], ","),
            Number(one["seconds"], ".1f"),
            *(Number(one["phases"].get(name), ".2f") for name in phases),
            Number(one["engine_idle"], ".0%"),
            Number(one["learner_idle"], ".0%"),
            Number(one["driver_seconds"], ".3f"),
            Number(one["driver_share"], ".2%"),
            Number(one["peak_memory"] / 2**30, ".2f"),
        ]
        for one in results
    ]
    ahead = results[0]["max_off_policy_steps"]
    return Table(
        ["engines", "s/step", *phases, "engines idle", "learner idle", "driver s", "driver", "peak GiB"],
        rows,
        f"Seconds of a step, with max_off_policy_steps {ahead}; from 1 on, phases run at the same time.",
    )


def by_ahead(results: Sequence[dict[str, Any]]) -> Table:
    """Steps an hour, by steps ahead."""
    first = results[0]["steps_per_hour"]
    rows = [
        [
            Number(one["max_off_policy_steps"], "d"),
            Number(one["steps_per_hour"], ".1f"),
            Number(one["steps_per_hour"] / first, ".2f"),
            Number(one["seconds"], ".1f"),
            Number(one["engine_idle"], ".0%"),
            Number(one["learner_idle"], ".0%"),
        ]
        for one in results
    ]
    return Table(
        ["ahead", "steps/h", "x the first", "s/step", "engines idle", "learner idle"],
        rows,
        f"Steps an hour by max_off_policy_steps, with {results[0]['engines']:,} engines.",
    )
