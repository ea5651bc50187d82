"""Starting Ray where the machine is slow. That cannot be had at will, so ``ray.init`` is replaced here."""

from __future__ import annotations

import pytest
import ray

from depo.recipe.schema import Recipe
from depo.workers import cluster
from depo.workers.cluster import STARTS, ray_cluster, start_local


@pytest.fixture(autouse=True)
def no_shutdown(monkeypatch) -> None:
    """Other tests of this process go on using its Ray."""
    monkeypatch.setattr(ray, "shutdown", lambda: None)


SLOW = Exception("The current node timed out during startup. This could happen because …")


def failing(times: int, error: Exception, tried: list[dict]):
    def init(**settings):
        tried.append(settings)
        if len(tried) <= times:
            raise error

    return init


def test_a_start_that_took_too_long_is_tried_again(monkeypatch) -> None:
    tried: list[dict] = []
    monkeypatch.setattr(cluster, "STARTS", STARTS)  # the session's Ray may have been given more
    monkeypatch.setattr(ray, "init", failing(STARTS - 1, SLOW, tried))
    start_local(num_cpus=2)
    assert tried == [{"num_cpus": 2}] * STARTS


@pytest.mark.parametrize(
    ("error", "times"), [(SLOW, STARTS), (ValueError("num_cpus must not be negative"), 1)]
)
def test_one_that_goes_on_failing_or_fails_otherwise_is_told(error, times, monkeypatch) -> None:
    tried: list[dict] = []
    monkeypatch.setattr(cluster, "STARTS", STARTS)
    monkeypatch.setattr(ray, "init", failing(STARTS, error, tried))
    with pytest.raises(type(error), match=str(error)[:20]):
        start_local(num_cpus=2)
    assert len(tried) == times


def test_a_local_ray_has_room_for_all_ranks_and_engines_on_a_machine_with_one_core(monkeypatch) -> None:
    tried: list[dict] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", failing(0, SLOW, tried))
    monkeypatch.setattr(cluster, "usable_cores", lambda: 1)
    recipe = {
        "name": "crowded",
        "steps": 1,
        "policy": {"type": "pretrained", "model": "organisation/model"},
        "data": {"train": "sums.jsonl"},
        "reward": {"type": "exact"},
        "rollout": {"engine": "vllm", "vllm": {"workers": 2}},
        "learner": {"ranks": 3},
    }
    with ray_cluster(Recipe.model_validate(recipe)):
        assert [one["num_cpus"] for one in tried] == [5]
