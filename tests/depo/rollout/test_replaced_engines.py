"""Engines that die or hang, and several callers at once.

Real Ray actors and the real pool; what generates in them is a stand-in for vLLM."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
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
    """Ends two completions at a look. In its second look it dies or hangs, once for each file in the
    directory that is its model; the file's name says which."""

    def __init__(self, options):
        self.directory, self.version = Path(options.model), 0
        self.held, self.looks = [], 0

    def ready(self):
        return True

    def load_weights(self, update):
        assert not self.held, "weights came while it was at work"
        self.version = update.version
        return self.version

    def score(self, sequences):
        return [np.full(len(completion), self.version, np.float32) for _, completion in sequences]

    def work(self, samples, seconds):
        self.held += samples
        self.looks += 1
        if self.looks == 2:
            for fault in self.directory.iterdir():
                with suppress(FileNotFoundError):  # another engine's
                    fault.unlink()
                    if fault.name == "hangs":
                        time.sleep(1000)
                    os._exit(1)
        ended, self.held = self.held[:2], self.held[2:]
        rollouts = [
            Rollout(
                *(one.prompt.key, one.first_index, one.seeds[0], np.zeros(3, np.int32), np.zeros(3)),
                *("stop", self.version),
            )
            for one, _ in ended
        ]
        return Look(rollouts, 5 * len(ended), len(self.held))


class Impatient(Calls):
    """Takes an engine for one that hangs when a look of a quarter of a second takes five seconds."""

    def limit(self, what: str) -> float:
        return 5.0 if what == module.GENERATING else super().limit(what)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, list]:
    monkeypatch.setattr(module, "actor_class", lambda: ray.remote(max_restarts=0)(Worker))
    return {"lost": [], "said": [], "proved": []}


def pool_of(
    directory: Path, told: dict[str, list], faults: Sequence[str] = (), workers: int = 1, ahead: int = 0
) -> VllmPool:
    directory.mkdir()
    for fault in faults:
        (directory / fault).touch()
    overlap = {"max_off_policy_steps": ahead} if ahead else {}
    pool = VllmPool(
        Rollouts(engine="vllm", vllm={"workers": workers, "max_num_seqs": 4}, **overlap),
        str(directory),
        dtype="float32",
        context_length=8,
        eos_token_ids=(1,),
        calls=(Impatient if "hangs" in faults else Calls)(say=told["said"].append),
        lost=lambda seed, tokens: told["lost"].append((seed, tokens)),
    )
    pool.proof = Proves(told["proved"])
    return pool


class Proves:
    """Notes what engines have loaded by themselves; their scores tell the version."""

    sequences = (((1,), (2, 3)),)

    def __init__(self, proved: list) -> None:
        self.proved = proved

    def prove(self, name, version, scores):
        assert [row.tolist() for row in scores] == [[version, version]]
        self.proved.append((name, version))


REQUESTS = [Request(Prompt(f"p{i}", "", (1,), ""), (10 * i, 10 * i + 1)) for i in range(10)]
SAMPLING = Sampling(1.0, 3)


def asked_for(requests: list[Request]) -> Counter:
    return Counter((one.prompt.key, i, one.seeds[i]) for one in requests for i in range(one.n))


def made(rollouts: list[Rollout]) -> Counter:
    return Counter((one.key, one.index, one.seed) for one in rollouts)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("dies", "vLLM worker 0 died during 'generating': killed, or out of memory"),
        ("hangs", "vLLM worker 0: no answer to 'generating' after 5 s; it hangs"),
    ],
)
def test_what_a_dead_engine_owed_is_generated_again_with_the_same_weights(
    tmp_path: Path, told, fault: str, said: str
) -> None:
    pool = pool_of(tmp_path / "model", told, [fault])
    pool.load_weights(WeightUpdate(3, "somewhere"))
    rollouts = list(pool.generate(REQUESTS, SAMPLING))
    assert made(rollouts) == asked_for(REQUESTS)
    assert {one.policy_version for one in rollouts} == {3}
    assert told["proved"] == [("vLLM worker 0", 3)]
    # Two of twenty had ended; four of the others were under way, with 2 · 5 − 2 · 3 tokens told of.
    assert told["lost"] == [(10, 1), (11, 1), (20, 1), (21, 1)]
    (line,) = told["said"]
    assert line.startswith(f"warning: {said}")
    assert line.endswith("; another engine takes its place")
    pool.close()


def test_an_engine_that_died_while_it_had_nothing_to_do_is_replaced_when_it_is_needed(
    tmp_path: Path, told
) -> None:
    pool = pool_of(tmp_path / "model", told, workers=2)
    pool.load_weights(WeightUpdate(1, "somewhere"))
    ray.kill(pool.workers["vLLM worker 1"])
    assert pool.load_weights(WeightUpdate(2, "elsewhere")) == 2
    assert told["proved"] == [("vLLM worker 1", 1)]
    scores = pool.score_each([((1,), (2, 3))])
    assert {name: row.tolist() for name, (row,) in scores.items()} == {
        "vLLM worker 0": [2.0, 2.0],
        "vLLM worker 1": [2.0, 2.0],
    }
    pool.close()


def test_several_callers_share_the_engines_and_each_engine_loads_what_is_new_when_it_has_run_dry(
    tmp_path: Path, told
) -> None:
    """Three steps at once on two engines, one of which dies; the third needs newer weights than the first."""
    pool = pool_of(tmp_path / "model", told, ["dies"], workers=2, ahead=2)
    pool.load_weights(WeightUpdate(1, "somewhere"))
    steps: dict[int, list[Rollout]] = {}
    requests = {
        step: [Request(one.prompt, tuple(100 * step + seed for seed in one.seeds)) for one in REQUESTS]
        for step in (2, 3, 4)
    }

    def roll_out(step: int) -> None:
        steps[step] = list(pool.generate(requests[step], SAMPLING, oldest=step - 2))

    threads = [threading.Thread(target=roll_out, args=(step,)) for step in requests]
    threads[0].start()
    threads[1].start()
    assert pool.offer(WeightUpdate(2, "elsewhere")) == {2}
    threads[2].start()
    for thread in threads:
        thread.join()
    for step, rollouts in steps.items():
        assert made(rollouts) == asked_for(requests[step])
        assert min(one.policy_version for one in rollouts) >= step - 2
    assert {one.policy_version for one in steps[4]} == {2}
    proved = {name for name, version in told["proved"] if version == 2}
    assert proved and proved <= set(pool.workers), "one that still starts again is not waited for"
    assert 1 <= len(told["lost"]) <= 4
    assert len(list(pool.generate(REQUESTS, SAMPLING))) == 20
    pool.close()


def test_engines_that_keep_dying_end_the_run_and_closed_ones_stay_closed(tmp_path: Path, told) -> None:
    pool, name = pool_of(tmp_path / "model", told, ["dies"]), "vLLM worker 0"
    stream = pool.generate(REQUESTS, SAMPLING)
    assert len([next(stream), next(stream)]) == 2
    pool.deaths[name] = module.LIVES - 1  # as if no rollout had come in between
    with pytest.raises(Died, match="vLLM worker 0 died during 'generating'") as died:
        next(stream)
    pool.close()
    pool.deaths[name] = 0
    with pytest.raises(Died):
        pool.replace(name, died.value)
    assert told["proved"] == []
