"""Which policy a training run is evaluated by, and with which checkpoint's estimator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from depo.evaluation.model import find_target, fingerprint

MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def run_of(directory: Path, ended_at: int | None, *checkpoints: int) -> Path:
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "recipe.yaml").write_text("")
    policies = [directory / "checkpoints" / f"step_{step:06d}" / "policy" for step in checkpoints]
    if ended_at is not None:
        policies.append(directory / "policy")
        (directory / "summary.json").write_text(json.dumps({"steps": ended_at}))
    for policy in policies:
        policy.mkdir(parents=True)
        for name in MODEL_FILES:
            empty = "\2\0\0\0\0\0\0\0{}" if name.endswith(".safetensors") else "{}"
            (policy / name).write_text(empty)
    return directory


@pytest.mark.parametrize(
    ("ended_at", "checkpoints", "policy"),
    [
        (200, (100, 200), "policy"),
        (None, (100, 150), "checkpoints/step_000150/policy"),
        (200, (200, 350), "checkpoints/step_000350/policy"),  # resumed with more steps, then cut off
    ],
)
def test_policy_and_estimator_are_of_the_same_newest_step(
    tmp_path: Path, ended_at: int | None, checkpoints: tuple[int, ...], policy: str
) -> None:
    run = run_of(tmp_path / "run", ended_at, *checkpoints)
    target = find_target(str(run))
    assert target.model == str(run / policy)
    assert target.checkpoint == run / "checkpoints" / f"step_{checkpoints[-1]:06d}"


def test_the_final_policy_by_name_has_no_estimator_of_another_step(tmp_path: Path) -> None:
    assert find_target(str(run_of(tmp_path / "a", 200, 200, 350) / "policy")).checkpoint is None
    ended = run_of(tmp_path / "b", 200, 100, 200)
    assert find_target(str(ended / "policy")).checkpoint == ended / "checkpoints" / "step_000200"


def test_a_model_that_differs_in_the_middle_of_its_weights_is_another(tmp_path: Path) -> None:
    """As after merging an adapter of the experts: the first and the last tensors of the file stay."""
    weights = np.random.default_rng(0).integers(0, 256, 24 * 2**20, dtype=np.uint8)
    prints = []
    for name, changed in (("base", slice(0)), ("merged", slice(11 * 2**20, 12 * 2**20))):
        (tmp_path / name).mkdir()
        weights[changed] += 1
        (tmp_path / name / "model.safetensors").write_bytes(weights.tobytes())
        prints.append(fingerprint(str(tmp_path / name)))
    assert prints[0] != prints[1]
