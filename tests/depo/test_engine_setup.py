"""What a vLLM engine is held to, by policy. The engine itself is a stand-in: no test starts one for this."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.config import Recipe
from depo.data.pool import PromptPool
from depo.learner.actor import PolicyFacts
from depo.setup import make_engine
from depo.types import Prompt


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
    import depo.rollout.vllm_pool

    monkeypatch.setattr(depo.rollout.vllm_pool, "VllmPool", StandIn)
    monkeypatch.setattr("depo.setup.gpus_in_cluster", lambda: 0)
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
    _, sync = make_engine(recipe, Path("run"), "./none", facts, pool, learner=None, console=Said())
    assert sync.probe.tolerance == tolerance
    lengths = [len(prompt) + len(completion) for prompt, completion in sync.probe.sequences]
    assert lengths
    assert max(lengths) <= recipe.context_length - 1
