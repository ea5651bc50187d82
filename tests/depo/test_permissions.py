"""Weight files have the mode that any file made by the user would have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from depo.estimators.base import State
from depo.files import follow_umask, save_state
from depo.recipe.schema import TinyMoePolicy
from depo.train.checkpoint import write_checkpoint


@pytest.fixture(params=[0o022, 0o002, 0o077], ids=oct)
def umask(request) -> int:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_safetensors_files_follow_the_umask_and_others_are_left_alone(tmp_path, umask):
    inside = tmp_path / "policy"
    inside.mkdir()
    for name in ("model.safetensors", "private.key"):
        (inside / name).touch(mode=0o600)
    follow_umask(tmp_path)
    assert mode(inside / "model.safetensors") == 0o666 & ~umask
    assert mode(inside / "private.key") == 0o600
    assert sorted(path.name for path in inside.parent.rglob("*")) == [
        "model.safetensors",
        "policy",
        "private.key",
    ]


def test_a_checkpoint_follows_the_umask(tmp_path, umask):
    state = State(schema_version=1, values={}, arrays={"a": np.zeros(2)})
    written = write_checkpoint(tmp_path, 3, lambda aside: save_state(aside / "estimator", state))
    assert mode(written / "estimator/state.safetensors") == 0o666 & ~umask


def test_a_policy_and_its_export_follow_the_umask(tmp_path):
    from transformers import AutoModelForCausalLM

    from depo.models.export import export_policy
    from depo.toy import tiny_moe

    policy = TinyMoePolicy(hidden_size=32, layers=1, heads=2, kv_heads=1, experts=2, expert_size=16)
    tiny_moe.build(policy, tmp_path / "built", seed=0)
    export_policy(AutoModelForCausalLM.from_pretrained(tmp_path / "built"), tmp_path / "exported")
    for directory in ("built", "exported"):
        (weights,) = (tmp_path / directory).glob("*.safetensors")
        assert mode(weights) == mode(tmp_path / directory / "config.json")
        assert mode(weights) & 0o044, "the umask of a test machine lets others read"
