"""Several ranks compute what one computes: real processes, gloo, tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_group import RankGroup
from rank_work import exchange_without_the_others, export, go_on, look, train
from safetensors.torch import load_file

from depo.learner.layout import split_by_tokens
from depo.learner.ranks import ALONE, Ranks

NEAR = 1e-5


@pytest.fixture(scope="module")
def groups() -> Iterator[dict[int, RankGroup]]:
    made = {count: RankGroup(count) for count in (2, 4)}
    yield made
    for group in made.values():
        group.close()


# ---------------------------------------------------------------- one update after another

CASES: dict[str, dict[str, Any]] = {
    "grpo": {"learner": {"loss": {"type": "grpo"}, "minibatches": 3, "epochs": 2}},
    "dapo": {"learner": {"loss": {"type": "dapo"}, "minibatches": 3, "epochs": 2}},
    "dr_grpo": {"learner": {"loss": {"type": "dr_grpo"}, "minibatches": 2}},
    "gspo": {"learner": {"loss": {"type": "gspo"}, "minibatches": 2}},
    "cispo": {"learner": {"loss": {"type": "cispo"}, "epochs": 2, "packing": False}},
    "one optimizer step": {"learner": {}},
    "fewer sequences than ranks": {"learner": {"minibatches": 3}, "groups": 1, "model": "llama"},
    "penalty to a frozen copy": {"learner": {"kl_coef": 0.1, "minibatches": 2}},
    "gradient checkpointing": {"learner": {"minibatches": 2}, "checkpointing": True},
    "adapter": {
        "learner": {"kl_coef": 0.1, "minibatches": 2},
        "lora": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    },
    "mixture": {"learner": {"minibatches": 2}, "model": "qwen3_moe"},
    "mixture, r2": {"learner": {"minibatches": 3, "epochs": 2, "routing_replay": "r2"}, "model": "qwen3_moe"},
    "mixture, r3": {"learner": {"routing_replay": "r3"}, "model": "qwen3_moe", "routes": True},
    "mixture, adapter on experts": {
        "learner": {"minibatches": 2},
        "model": "qwen3_moe",
        "lora": {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    },
    "linear attention": {"learner": {"minibatches": 2}, "model": "qwen3_next"},
}


ON_FOUR = {"grpo", "fewer sequences than ranks", "adapter", "mixture, r2"}
"""What the others show with four ranks is left to the slow tests."""

RUNS = [pytest.param(name, 2) for name in CASES]
RUNS += [pytest.param(name, 4, marks=[] if name in ON_FOUR else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize(("name", "count"), RUNS)
def test_ranks_train_as_one_does(name: str, count: int, groups: dict[int, RankGroup]) -> None:
    alone = train(ALONE, CASES[name])
    by_rank = groups[count].call(train, CASES[name])
    assert {len(found["passes"]) for found in by_rank} == {len(alone["passes"])}
    assert len({str(found["passes"]) for found in by_rank}) == 1, "as many passes on each"
    for found in by_rank:
        same_metrics(found, alone)
        for ours, theirs in zip(found["old"], alone["old"], strict=True):
            np.testing.assert_allclose(np.concatenate(ours), np.concatenate(theirs), atol=NEAR, rtol=NEAR)
        for ours, theirs in zip(found["layers"], alone["layers"], strict=True):
            for what in theirs:
                np.testing.assert_allclose(ours[what], theirs[what], atol=NEAR)
        same_weights(found, alone)


def test_in_bfloat16_they_differ_by_its_rounding(groups: dict[int, RankGroup]) -> None:
    case = {"learner": {"minibatches": 2}, "model": "qwen3_moe", "bfloat16": True}
    alone = train(ALONE, case)["metrics"][0]
    for found in groups[2].call(train, case):
        for metric in ("loss", "grad_norm", "entropy"):
            assert found["metrics"][0][metric] == pytest.approx(alone[metric], rel=0.03, abs=0.01), metric


CUT = {"seconds", "padding_share", "weights_changed"}
"""Metrics of how the work was cut, and of a sample of this rank's weights."""


def same_metrics(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for ours, theirs in zip(found["metrics"], expected["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        for metric in theirs.keys() - CUT:
            assert ours[metric] == pytest.approx(theirs[metric], abs=NEAR, rel=NEAR), metric


def same_weights(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    for weight, ours in found["weights"].items():
        torch.testing.assert_close(ours, expected["weights"][weight], atol=NEAR, rtol=0)


# ---------------------------------------------------------------- beside the update


@pytest.mark.parametrize("name", ["one optimizer step", "mixture, adapter on experts"])
def test_scores_features_perturbation_and_the_whole_policy_are_those_of_one(
    name: str, groups: dict[int, RankGroup]
) -> None:
    alone = look(ALONE, CASES[name])
    assert np.abs(alone["perturbed"][0] - alone["score"][0]).max() > 0.01
    for found in groups[2].call(look, CASES[name]):
        for what, values in alone.items():
            for ours, theirs in zip(found[what], values, strict=True):
                np.testing.assert_allclose(ours, theirs, atol=NEAR, rtol=NEAR, err_msg=what)


@pytest.mark.parametrize("name", ["one optimizer step", "mixture, adapter on experts"])
def test_a_checkpoint_goes_on_with_any_number_of_ranks(
    name: str, groups: dict[int, RankGroup], tmp_path: Path
) -> None:
    case = CASES[name]
    straight = go_on(ALONE, case, None, tmp_path / "alone")
    groups[2].call(go_on, case, None, tmp_path / "two")
    again = go_on(ALONE, case, tmp_path / "alone", None)
    assert not torch.equal(*(next(iter(run["weights"].values())) for run in (straight, again)))
    for load in ("alone", "two"):
        for found in [
            *groups[2].call(go_on, case, tmp_path / load, None),
            *groups[4].call(go_on, case, tmp_path / load, None),
        ]:
            same_weights(found, again)
            same_metrics(found, again)
    same_weights(go_on(ALONE, case, tmp_path / "two", None), again)


def test_with_as_many_ranks_a_resumed_run_is_the_same_bit_by_bit(
    groups: dict[int, RankGroup], tmp_path: Path
) -> None:
    case = CASES["one optimizer step"]
    groups[2].call(go_on, case, None, tmp_path / "first")
    straight = groups[2].call(go_on, case, tmp_path / "first", tmp_path / "second")[0]
    resumed = groups[2].call(go_on, case, tmp_path / "first", None)[0]
    assert all(
        torch.equal(resumed["weights"][name], straight["weights"][name]) for name in straight["weights"]
    )


@pytest.mark.parametrize("trained_only", [False, True])
@pytest.mark.parametrize("name", ["one optimizer step", "mixture, adapter on experts"])
def test_what_ranks_export_is_what_one_exports(
    name: str, trained_only: bool, groups: dict[int, RankGroup], tmp_path: Path
) -> None:
    export(ALONE, CASES[name], tmp_path / "alone", trained_only)
    groups[2].call(export, CASES[name], tmp_path / "two", trained_only)
    ours, theirs = (load_file(tmp_path / who / "model.safetensors") for who in ("two", "alone"))
    assert ours.keys() == theirs.keys()
    for weight in theirs:
        torch.testing.assert_close(ours[weight], theirs[weight], atol=1e-6, rtol=0)
    config = [(tmp_path / who / "config.json").read_text() for who in ("two", "alone")]
    assert config[0] == config[1]


def test_an_exchange_that_another_rank_does_not_join_ends_with_an_error() -> None:
    group = RankGroup(2, timeout=2.0)
    told, _ = group.call(exchange_without_the_others)
    group.close()
    assert "timed out" in told.lower(), told


# ---------------------------------------------------------------- who computes what


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("packs", [1, 5, 40])
def test_every_rank_gets_as_many_passes_that_cost_about_the_same(count: int, packs: int) -> None:
    lengths_K = np.random.default_rng(0).integers(16, 257, packs)  # 1 to 16
    cut = partial(split_by_tokens, np.arange(packs), lengths_K, packed=True)
    dealt = []
    for rank in range(count):
        ranks = Ranks(rank, count)
        dealt.append(list(ranks.own(ranks.dealt(cut, 2048, lambda part: int(lengths_K[part].sum())))))
    assert len({len(parts) for parts in dealt}) == 1
    assert sorted(row for parts in dealt for part in parts for row in part) == list(range(packs))
    if packs == 40:
        cost = [sum(lengths_K[part].sum() for part in parts) for parts in dealt]
        assert max(cost) < 1.25 * np.mean(cost)
