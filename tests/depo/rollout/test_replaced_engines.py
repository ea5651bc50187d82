"""Engines that die. Real Ray actors and the real pool; what generates in them is a stand-in for vLLM."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ray

from depo.recipe.schema import Rollouts
from depo.rollout.calls import Calls, Died
from depo.rollout.engine import Look, Sampling, WeightUpdate
from depo.rollout.vllm import pool as module
from depo.rollout.vllm.pool import VllmPool
from depo.types import Prompt, Request, Rollout

pytestmark = pytest.mark.usefixtures("cluster")


class Worker:
    """Dies in its third rollout, once for each file in the directory that is its model."""

    def __init__(self, options):
        self.directory, self.version = Path(options.model), 0

    def ready(self):
        return "a node"

    def load_weights(self, update):
        self.version = update.version
        return self.version

    def score(self, sequences):
        return [np.full(len(completion), self.version, np.float32) for _, completion in sequences]

    def generate(self, requests, sampling, look_seconds):
        dies = next(self.directory.iterdir(), None)
        for count, one in enumerate(requests):
            if count == 2 and dies is not None:
                dies.unlink()
                time.sleep(1.0)  # until what was yielded has arrived
                os._exit(1)
            rollout = Rollout(
                *(one.prompt.key, one.first_index, one.seeds[0], np.zeros(3, np.int32), np.zeros(3)),
                *("stop", self.version),
            )
            yield Look([rollout], 5)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    monkeypatch.setattr(module, "actor_class", lambda: ray.remote(max_restarts=0)(Worker))
    return {"lost": [], "said": [], "replaced": []}


def pool_of(directory: Path, told: dict[str, list], deaths: int, workers: int = 1) -> VllmPool:
    directory.mkdir()
    for number in range(deaths):
        (directory / str(number)).touch()
    pool = VllmPool(
        Rollouts(engine="vllm", vllm={"workers": workers, "max_num_seqs": 4}),
        str(directory),
        dtype="float32",
        context_length=8,
        eos_token_ids=(1,),
        calls=Calls(say=told["said"].append),
        lost=lambda keys, tokens: told["lost"].append((list(keys), tokens)),
    )
    pool.replaced = told["replaced"].append
    return pool


REQUESTS = [Request(Prompt(f"p{i}", "", (1,), ""), (10 * i, 10 * i + 1)) for i in range(10)]


def test_what_a_dead_engine_owed_is_generated_again_with_the_same_weights(tmp_path: Path, told) -> None:
    pool = pool_of(tmp_path / "model", told, deaths=1)
    pool.load_weights(WeightUpdate(3, "somewhere"))
    rollouts = list(pool.generate(REQUESTS, Sampling(1.0, 3)))
    assert Counter((one.key, one.index, one.seed) for one in rollouts) == Counter(
        (request.prompt.key, i, request.seeds[i]) for request in REQUESTS for i in (0, 1)
    )
    assert {one.policy_version for one in rollouts} == {3}
    (name,) = told["replaced"]
    # Two of twenty had ended; four of the others were under way, with 2 · 5 − 2 · 3 tokens told of.
    ((keys, tokens),) = told["lost"]
    assert len(keys) == 4
    assert tokens == 4
    assert [line for line in told["said"] if not line.startswith("waiting")] == [
        f"warning: {name} died during 'generating': killed, or out of memory; another engine takes its place"
    ]
    pool.close()


def test_an_engine_that_died_while_it_had_nothing_to_do_is_replaced_when_it_is_needed(
    tmp_path: Path, told
) -> None:
    pool = pool_of(tmp_path / "model", told, deaths=0, workers=2)
    pool.load_weights(WeightUpdate(1, "somewhere"))
    ray.kill(pool.workers["vLLM worker 1"])
    assert pool.load_weights(WeightUpdate(2, "elsewhere")) == 2
    assert told["replaced"] == ["vLLM worker 1"]
    scores = pool.score_each([((1,), (2, 3))])
    assert {name: row.tolist() for name, (row,) in scores.items()} == {
        "vLLM worker 0": [2.0, 2.0],
        "vLLM worker 1": [2.0, 2.0],
    }
    pool.close()


def test_engines_that_keep_dying_end_the_run_and_closed_ones_stay_closed(tmp_path: Path, told) -> None:
    pool, name = pool_of(tmp_path / "model", told, deaths=1), "vLLM worker 0"
    stream = pool.generate(REQUESTS, Sampling(1.0, 3))
    assert len([next(stream), next(stream)]) == 2
    pool.deaths[name] = module.LIVES - 1  # as if no rollout had come in between
    with pytest.raises(Died, match="vLLM worker 0 died during 'generating'") as died:
        next(stream)
    pool.close()
    pool.deaths[name] = 0
    with pytest.raises(Died):
        pool.replace(name, died.value)
    assert told["replaced"] == []
