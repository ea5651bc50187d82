"""What a vLLM engine is held to, by policy. The engine itself is a stand-in: no test starts one for this."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from depo.errors import UserError
from depo.recipe.schema import Recipe
from depo.rollout.calls import Calls
from depo.selection.pool import PromptPool
from depo.train.assembly import check_gpus_suffice, make_engine
from depo.types import Prompt
from depo.workers.cluster import learner_gpus
from depo.workers.learner import PolicyFacts


class StandIn:
    def __init__(self, *_: object, **__: object) -> None: ...


class Said:
    def say(self, text: str) -> None: ...


@pytest.mark.parametrize(
    ("dtype", "routed_layers", "tolerance"),
    [("bfloat16", (0, 1), 0.6), ("bfloat16", (), 0.15), ("float32", (0, 1), 1e-3)],
)
def test_mixtures_get_their_own_tolerance_and_the_probe_fits_the_context(
    dtype: str, routed_layers: tuple[int, ...], tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import depo.rollout.vllm.pool

    monkeypatch.setattr(depo.rollout.vllm.pool, "VllmPool", StandIn)
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: 0)
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "steps": 1,
            "policy": {"type": "pretrained", "model": "./none", "dtype": dtype},
            "data": {"train": "sums.jsonl", "max_prompt_tokens": 12},
            "rollout": {"engine": "vllm", "max_new_tokens": 5},
        }
    )
    facts = PolicyFacts(1, 1, 100, 0, (1,), "cpu", routed_layers)
    pool = PromptPool([Prompt(str(n), "", tuple(range(2, 14)), "") for n in range(5)], seed=0)
    _, sync = make_engine(recipe, Path("run"), recipe.policy, facts, pool, None, Said(), Calls(), deque())
    assert sync.probe.tolerance == tolerance
    lengths = [len(prompt) + len(completion) for prompt, completion in sync.probe.sequences]
    assert lengths
    assert max(lengths) <= recipe.context_length - 1


def with_vllm(
    *, workers: int = 1, tensor_parallel: int = 1, gpus: int | None = None, device: str = "auto"
) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "steps": 1,
            "policy": {"type": "pretrained", "model": "./none"},
            "data": {"train": "sums.jsonl"},
            "rollout": {"engine": "vllm", "vllm": {"workers": workers, "tensor_parallel": tensor_parallel}},
            "learner": {"device": device},
            "resources": {"learner_gpus": gpus},
        }
    )


SHARE = "resources.learner_gpus=0 and a smaller rollout.vllm.gpu_memory_utilization (now 0.9), such as 0.3"


@pytest.mark.parametrize(
    ("asked", "cluster", "says"),
    [
        ({}, 1, ["learner reserves 1 GPUs", "the engines 1 ", "cluster has 1; ", SHARE]),
        ({"workers": 4, "tensor_parallel": 2}, 8, ["engines 8 (", "workers 4 x tensor_parallel 2", SHARE]),
        ({"workers": 2, "gpus": 0}, 1, ["learner reserves 0 GPUs", "engines 2 ", "fewer or smaller engines"]),
    ],
)
def test_more_gpus_than_the_cluster_has_are_refused_with_the_way_to_share(
    asked: dict, cluster: int, says: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: cluster)
    with pytest.raises(UserError) as caught:
        check_gpus_suffice(with_vllm(**asked))
    assert "\n" not in str(caught.value)
    for words in says:
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "cluster"),
    [
        ({}, 2),
        ({}, 0),  # all on CPUs
        ({"gpus": 0}, 1),
        ({"device": "cpu"}, 1),
        ({"workers": 7, "gpus": 1}, 8),
    ],
)
def test_what_finds_its_place_is_let_through(
    asked: dict, cluster: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("depo.train.assembly.gpus_in_cluster", lambda: cluster)
    check_gpus_suffice(with_vllm(**asked))


def test_a_learner_takes_one_gpu_where_there_is_one_and_none_on_a_cpu() -> None:
    assert [learner_gpus(with_vllm(), gpus) for gpus in (0, 1, 8)] == [0, 1, 1]
    assert learner_gpus(with_vllm(gpus=0), 8) == 0
    assert learner_gpus(with_vllm(gpus=1, device="cpu"), 8) == 0
