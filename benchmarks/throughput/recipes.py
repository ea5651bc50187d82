"""The recipes of depo's side."""

from __future__ import annotations

from typing import Any
from zlib import crc32

from benchmarks.throughput.workload import GROUP_SIZE, Workload, source
from depo.recipe.schema import Recipe
from reward.base import Sample

LIVE_POOL = 1000


LIVE_PROMPTS = 32


LIVE_NEW_TOKENS = 8
"""Sizes of the quickstart."""


def against_trl(workload: Workload) -> Recipe:
    """What GRPOTrainer does: every prompt drawn is rolled out once and trained on."""
    return recipe(
        workload,
        {
            "name": "against_trl",
            "steps": 1 + workload.steps,
            "data": data(workload, workload.pool),
            "batch": {"prompts": workload.prompts, "group_size": GROUP_SIZE},
            "rollout": rollout(workload.max_new_tokens, workload.prompts * GROUP_SIZE),
            "reward": {"type": "exact"},
            "estimator": {"type": "uniform"},
            "selection": {"type": "uniform", "refill": False},
            "learner": learner(workload, workload.tokens_per_microbatch) | {"zero_variance": "include"},
        },
    )


def live_selection(workload: Workload, steps: int, warm_up: int) -> Recipe:
    """The quickstart's sizes, with an estimator that does not ask the policy (``prefill_probe:
    false``) and refill from the whole pool, to see what they cost once they are at work.

    The policy is untrained, so outcomes come from ``known_difficulty``: each prompt has a pass rate of its
    own, and the estimator has as much to learn as in a real run. The rule selects from the first step.
    """
    prompts = min(LIVE_PROMPTS, workload.prompts)
    return recipe(
        workload,
        {
            "name": "live_selection",
            "steps": warm_up + steps,
            "data": data(workload, LIVE_POOL),
            "batch": {"prompts": prompts, "group_size": GROUP_SIZE},
            "rollout": rollout(min(LIVE_NEW_TOKENS, workload.max_new_tokens), 4 * LIVE_PROMPTS * GROUP_SIZE),
            "reward": {"type": "function", "path": "benchmarks.throughput.recipes:known_difficulty"},
            "estimator": {"type": "hybrid"},
            "selection": {
                "type": "thompson",
                "refill": True,
                "min_window": 0,
                "draws": 1,
                "candidates": 8192,
                "prefill_probe": False,
            },
            "learner": learner(workload, workload.tokens_per_microbatch),
        },
    )


def recipe(workload: Workload, blocks: dict[str, Any]) -> Recipe:
    """What all of depo's runs share."""
    return Recipe.model_validate(
        blocks
        | {
            "seed": workload.seed,
            "policy": {"type": "pretrained", "model": workload.model, "dtype": "float32"},
            "evaluation": {"at_start": False, "at_end": False},
            "checkpoint": {"every": 0},
            "resources": {"threads": workload.threads},
        }
    )


def data(workload: Workload, size: int) -> dict[str, Any]:
    train = source(workload).model_dump() | {"size": size}
    return {"train": train, "raw": True, "max_prompt_tokens": workload.prompt_tokens}


def rollout(max_new_tokens: int, batch_size: int) -> dict[str, Any]:
    return {"max_new_tokens": max_new_tokens, "transformers": {"batch_size": batch_size}}


def learner(workload: Workload, tokens: int) -> dict[str, Any]:
    return {
        "loss": {"type": "dapo"},
        "correction": {"type": "none"},
        "lr": workload.lr,
        "tokens_per_microbatch": tokens,
        "device": "cpu",
    }


def known_difficulty(sample: Sample) -> float:
    """Right with probability 0, 0.1, … or 0.9, by the prompt: a hash of the completion decides."""
    threshold = crc32(sample.prompt.encode()) % 10
    return float(crc32((sample.prompt + "\x1f" + sample.completion).encode()) % 10 < threshold)
