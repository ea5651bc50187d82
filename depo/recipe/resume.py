"""What a resumed run may change of the recipe that the run was begun with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depo.errors import UserError
from depo.recipe.loading import load_recipe
from depo.recipe.schema import Recipe

RESUME_MAY_CHANGE = {
    "steps",
    "max_rollouts",
    "checkpoint",
    "evaluation",
    "guards",
    "tracking",
    "resources",
    "verification",
    "learner.tokens_per_microbatch",
    "learner.share_prompts",
    "policy.gradient_checkpointing",
    "rollout.transformers.batch_size",
    "rollout.vllm.workers",
    "rollout.vllm.tensor_parallel",
    "rollout.vllm.gpu_memory_utilization",
    "rollout.vllm.cpu_kv_cache_gib",
    "rollout.vllm.max_num_seqs",
    "rollout.vllm.enforce_eager",
    "rollout.vllm.sync_dir",
    "rollout.vllm.parity_tolerance",
}
"""What a resumed run may set anew: none of it changes what a step computes, but for its rounding and the
learning-rate schedule, which spans ``steps``. Where memory ran out, these are the keys that help."""


def changes_on_resume(recipe: Recipe, run_dir: Path) -> list[str]:
    """What ``recipe`` sets otherwise than the run was begun with, a line each. Raises UserError where there
    is no run, or where a change would make another run of it."""
    stored = run_dir / "recipe.yaml"
    if not stored.exists():
        raise UserError(f"--run-dir {run_dir}: no run to resume here (recipe.yaml is missing)")
    before = load_recipe(stored)
    changed = differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
    refused = [change for key, change in changed.items() if not may_change(key)]
    if refused:
        raise UserError(
            f"--resume: {', '.join(refused)} (in {stored} → now); a resumed run may only change "
            f"{', '.join(sorted(RESUME_MAY_CHANGE))}"
        )
    told = [f"changed on resume: {change}" for change in changed.values()]
    if "steps" in changed and recipe.learner.schedule != "constant":
        told.append(
            f"warning: the {recipe.learner.schedule} learning rate spans all steps: from now on what a "
            f"run of {recipe.steps} steps would have, not what this one had"
        )
    return told


def may_change(key: str) -> bool:
    """Whether a dotted key is, or lies in, what a resumed run may set anew."""
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in RESUME_MAY_CHANGE)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted key → "key old → new" of all that differs; lists and blocks of different type as a whole."""
    found: dict[str, str] = {}
    for key in {**before, **now}:
        old, new, name = before.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type"):
            found |= differences(old, new, f"{name}.")
        elif old != new:
            found[name] = f"{name} {shown(old)} → {shown(new)}"
    return found


def shown(value: Any) -> str:
    """As a recipe would say it, cut where it gets long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
