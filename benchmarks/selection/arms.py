"""What is compared: the project's own loop with only estimator, selection and refill changed.

The published methods stand as in docs/selection.md, but for DEPO's encoder, which is frozen here. Learning
rates were tuned for each arm alike on a family of problems of their own (``depo bench selection --tune``),
never on what is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PUBLISHED = {"audit": 0.0, "min_window": 0, "revisit_after": None, "candidates": 8192}
"""A method as published has neither audit nor gate nor reserved places."""


@dataclass(frozen=True)
class Arm:
    """``lr``: as tuned. ``ablation``: what of ``hybrid`` is left out."""

    title: str
    estimator: Mapping[str, Any]
    selection: Mapping[str, Any]
    lr: float
    batch: Mapping[str, Any] | None = None
    needs_encoder: bool = False


UNIFORM = {"type": "uniform"}


HYBRID = {"type": "hybrid"}


ROUND = {"refill": False, "candidates": 256}


ASKED = {"prefill_probe": True, "answer_rescoring": 8}


CHOICE = {"type": "thompson", "draws": 16, **ROUND, **ASKED}


LR, HYBRID_LR = 1e-4, 2e-4
"""Where an arm has not been tuned by itself: the same as for GRPO."""


ARMS: dict[str, Arm] = {
    "grpo": Arm("GRPO", UNIFORM, {"type": "uniform", "refill": False}, LR),
    "dapo": Arm("DAPO dynamic sampling", UNIFORM, {"type": "uniform", "refill": True}, 2e-4),
    "depo": Arm(
        "DEPO: encoder, window",
        {"type": "depo", "frozen": True},
        {"type": "window", "refill": False, "warmup_steps": 10, **PUBLISHED},
        LR,
        needs_encoder=True,
    ),
    "hybrid": Arm("hybrid", HYBRID, CHOICE, HYBRID_LR),
    "greso": Arm("GRESO", {"type": "greso"}, {"type": "skip", "refill": True, **PUBLISHED}, 2e-4),
    "mopps": Arm(
        "MoPPS", {"type": "mopps"}, {"type": "thompson", "draws": 1, "refill": False, **PUBLISHED}, LR
    ),
    "dps": Arm(
        "DPS",
        {"type": "dps", "prior_count": 1, "discount": 0.7, "confusion": 0},
        {"type": "greedy", "refill": False, **PUBLISHED},
        LR,
    ),
    "oracle": Arm(
        "knows every pass rate", {"type": "oracle", "live": True}, {"type": "greedy", **ROUND}, HYBRID_LR
    ),
    "greedy": Arm("hybrid, greedy", HYBRID, {"type": "greedy", **ROUND, **ASKED}, HYBRID_LR),
    "one_draw": Arm("hybrid, Thompson sampling", HYBRID, CHOICE | {"draws": 1}, HYBRID_LR),
    "no_probe": Arm("hybrid without the prefill probe", HYBRID, CHOICE | {"prefill_probe": False}, HYBRID_LR),
    "no_rescoring": Arm(
        "hybrid without earlier answers", HYBRID, CHOICE | {"answer_rescoring": 0}, HYBRID_LR
    ),
    "no_text": Arm("hybrid without text", HYBRID | {"text": "none"}, CHOICE, HYBRID_LR),
    "no_history": Arm("hybrid without history", HYBRID | {"history": False}, CHOICE, HYBRID_LR),
    "no_drift": Arm("hybrid without drift", HYBRID | {"drift": False}, CHOICE, HYBRID_LR),
    "no_audit": Arm("hybrid without audit", HYBRID, CHOICE | {"audit": 0.0, "min_window": 0}, HYBRID_LR),
    "refill": Arm("hybrid with refill", HYBRID, CHOICE | {"refill": True}, HYBRID_LR),
    "grpo_full_batch": Arm(
        "GRPO, batch sized for as many effective groups",
        UNIFORM,
        {"type": "uniform", "refill": False},
        LR,
        {"prompts": 128},
    ),
}


PRIMARY = ("grpo", "dapo", "depo", "hybrid")
