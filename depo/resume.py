"""A run directory has one process at a time, and one recipe, of which a resume may change some blocks."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depo.checkpoint import latest_checkpoint
from depo.config import Recipe
from depo.errors import UserError
from depo.recipe import load_recipe
from depo.tracking.metrics_log import read_metrics

RESUME_MAY_CHANGE = {
    "steps",
    "max_rollouts",
    "checkpoint",
    "evaluation",
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
LOCK = ".lock"
"""In a run directory: held by whoever is at work there."""


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Make the directory, and keep other processes out of it; the kernel lets go when this one dies. Raises
    UserError when one is at work there. Where the file system knows no locks, nothing is kept out."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--run-dir {run_dir}: another process is at work on this run; wait for it, or end it first"
            ) from None
        except OSError:
            pass
        yield


def check_continuable(run_dir: Path) -> None:
    """Raise UserError where a run has made steps and its checkpoints are gone: starting over would overwrite
    what it has left. (The first checkpoint precedes the first step.)"""
    if latest_checkpoint(run_dir / "checkpoints") is not None:
        return
    rows = read_metrics(run_dir / "metrics.jsonl") if (run_dir / "metrics.jsonl").exists() else []
    traces = [*(run_dir / "rollouts").glob("step_*.parquet"), *run_dir.glob("summary.json")]
    if rows or traces:
        last = f"step {rows[-1]['step']}" if rows else f"{traces[-1].name}"
        raise UserError(
            f"--run-dir {run_dir}: no checkpoint is left in checkpoints/, though the run got to {last}: it "
            "cannot be continued, and beginning anew would overwrite it; name another directory"
        )


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
        same_kind = isinstance(old, dict) and isinstance(new, dict) and old.get("type") == new.get("type")
        if same_kind:
            found |= differences(old, new, f"{name}.")
        elif old != new:
            found[name] = f"{name} {shown(old)} → {shown(new)}"
    return found


def shown(value: Any) -> str:
    """As a recipe would say it, cut where it gets long."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
