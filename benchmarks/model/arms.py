"""The arms: those of ``depo bench selection``, with the gate sized for the batch at hand.

Only estimator and selection are taken over: the learning rates there belong to another policy.
"""

from __future__ import annotations

from typing import Any

from benchmarks.model.forms import Form
from benchmarks.selection.arms import ARMS as METHODS
from benchmarks.selection.arms import ROUND

ARMS = tuple(
    name for name, method in METHODS.items() if method.batch is None and not method.estimator.get("live")
)
"""Without arms that change the batch (all arms train on the same recipe otherwise), and without the live
oracle, which needs one exact answer."""


BASELINES = ("grpo", "dapo")
"""Arms without beliefs, which the others are compared with."""


DEFAULT_ARMS = ("grpo", "dapo", "hybrid")


CANDIDATES = 8
"""For each prompt of a batch, where the policy looks at all of them."""


ALLOWED_BLOCKS = {"name", "estimator", "selection"}
"""Recipe blocks in which arms of one seed may differ."""


def needs_encoder(arm: str) -> bool:
    return METHODS[arm].needs_encoder


def arm_blocks(arm: str, form: Form, encoder: str | None = None) -> dict[str, dict[str, Any]]:
    """``estimator`` and ``selection`` of an arm; what the method itself says wins over the form.

    With four prompts a step, the usual 200 graded groups of the gate would outlast the run.
    """
    method = METHODS[arm]
    selection = {"audit": form.audit, "min_window": form.min_window, "window": form.window}
    selection |= {"max_rounds": form.max_rounds} | dict(method.selection)
    if selection.get("candidates") == ROUND["candidates"]:
        selection["candidates"] = CANDIDATES * form.prompts  # each is prefilled
    if "warmup_steps" in selection:
        selection["warmup_steps"] = form.warmup_steps  # of DEPO; how long is for the user to say
    estimator = dict(method.estimator)
    if method.needs_encoder:
        estimator["model"] = encoder
    return {"estimator": estimator, "selection": selection}
