"""The arms: which estimator, selector and refill each method is. Everything else in a recipe is the same.

The published methods are those of docs/selection.md; names are lower-case here, as on the command line.
"""

from __future__ import annotations

from typing import Any

from depo.bench.model.forms import Form

ARMS = ("grpo", "dapo", "hybrid", "depo")
BASELINES = ("grpo", "dapo")
"""Arms without beliefs, which the others are compared with."""
DEFAULT_ARMS = ("grpo", "dapo", "hybrid")
ALLOWED_BLOCKS = {"name", "estimator", "selection"}
"""Recipe blocks in which arms of one seed may differ."""


def arm_blocks(arm: str, form: Form, encoder: str | None = None) -> dict[str, dict[str, Any]]:
    """``estimator`` and ``selection`` of an arm. ``encoder``: text encoder of the arm ``depo``.

    The gate's window follows the batch of the form: with four prompts a step, the usual 200 graded groups
    would outlast the run.
    """
    match arm:
        case "grpo":
            estimator, selection = {"type": "uniform"}, {"type": "uniform", "refill": False}
        case "dapo":
            estimator = {"type": "uniform"}
            selection = {"type": "uniform", "refill": True, "max_waves": form.max_waves}
        case "hybrid":
            estimator = {"type": "hybrid"}
            selection = {
                "type": "thompson",
                "refill": True,
                "max_waves": form.max_waves,
                "audit": form.audit,
                "min_window": form.min_window,
                "window": form.window,
                "candidates": form.candidates,
            }
        case "depo":
            estimator = {"type": "encoder", "model": encoder}
            selection = {
                "type": "window",
                "refill": False,
                "audit": 0.0,
                "min_window": 0,
                "warmup_steps": form.warmup_steps,
                "revisit_after": None,
                "candidates": form.candidates,
            }
        case other:
            raise ValueError(f"unknown arm {other!r}: expected one of {', '.join(ARMS)}")
    return {"estimator": estimator, "selection": selection}
