"""Two nodes of Ray on this machine, engines on both, and the loss of one of them: run as a program, it prints
what happened as JSON. Ray, pool, places and weight sync are real; what generates is a stand-in for vLLM."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
from ray.cluster_utils import Cluster

from depo.errors import UserError
from depo.recipe.schema import Rollouts
from depo.rollout import places, shelves
from depo.rollout.calls import Calls
from depo.rollout.engine import Look, Sampling
from depo.rollout.parity import ParityProbe
from depo.rollout.vllm import pool as module
from depo.rollout.weights import DirectorySync
from depo.types import Prompt, Request, Rollout
from depo.workers.group import ActorGroup

PROBE = ParityProbe([((1,), (2, 3))], 1e-3)
REQUESTS = [Request(Prompt(f"p{i}", "", (1,), ""), (10 * i, 10 * i + 1)) for i in range(10)]
WEIGHTS = 150_000
places.PLACED = 6.0
shelves.CHUNK = 64_000  # home is this process; the others are sent what it reads


class Worker:
    """Serves the mean of the weights that it read."""

    def __init__(self, options: object) -> None:
        self.version, self.directory, self.mean = 0, "", 0.0
        self.held: list[Any] = []

    def ready(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def load_weights(self, update: Any) -> int:
        weights = np.fromfile(Path(update.directory) / "weights", np.float64)
        assert len(weights) == WEIGHTS
        self.version, self.directory, self.mean = update.version, update.directory, float(weights.mean())
        return self.version

    def score(self, sequences: Any) -> list[np.ndarray]:
        return [np.full(len(completion), self.mean) for _, completion in sequences]

    def read_from(self) -> str:
        return self.directory

    def work(self, samples: Any, seconds: float) -> Look:
        time.sleep(0.3)
        (one, _), *self.held = [*self.held, *samples]
        row = (one.prompt.key, one.first_index, one.seeds[0], np.zeros(3, np.int32), np.zeros(3))
        return Look([Rollout(*row, "stop", self.version)], 5, len(self.held))


class Learner:
    def __init__(self) -> None:
        self.scale = 1.0

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def export(self, directory: Path, trained_only: bool) -> None:
        (np.arange(WEIGHTS) * self.scale).tofile(directory / "weights")

    def score(self, sequences: Any) -> list[np.ndarray]:
        mean = float((np.arange(WEIGHTS) * self.scale).mean())
        return [np.full(len(completion), mean) for _, completion in sequences]

    def perturb(self, seed: int, scale: float) -> None:
        self.scale += scale

    def restore(self) -> None:
        self.scale = 1.0


module.actor_class = lambda: ray.remote(max_restarts=0)(Worker)


class Rank:
    def __init__(self, recipe: object, rank: int) -> None: ...


def engines(gpus: int, told: dict[str, list], run: str) -> tuple[module.VllmPool, DirectorySync, Learner]:
    pool = module.VllmPool(
        Rollouts(engine="vllm", vllm={"workers": 2, "max_num_seqs": 4}),
        "none",
        dtype="float32",
        context_length=8,
        eos_token_ids=(1,),
        num_gpus_per_worker=gpus,
        calls=Calls(say=told["said"].append),
        lost=lambda seed, tokens: told["lost"].append(seed),
    )
    learner = Learner()
    return pool, DirectorySync(learner, pool, PROBE, None, Path(run), 0, told["said"].append), learner


def refusal(ranks: int) -> str:
    recipe = SimpleNamespace(learner=SimpleNamespace(ranks=ranks))
    try:
        ActorGroup(Rank, recipe, 0, Calls()).close()
    except UserError as error:
        return str(error)
    return ""


def story(cluster: Cluster, run: str) -> dict[str, Any]:
    told: dict[str, list] = {"said": [], "lost": []}
    first = ray.get_runtime_context().get_node_id()
    found: dict[str, Any] = {"refusals": [refusal(1), refusal(3)]}
    with_gpus, sync, learner = engines(1, told, run)
    without, other_sync, other_learner = engines(0, told, f"{run}2")
    sync.start(0)
    other_sync.start(0)
    found["on the first"] = [sorted(at == first for at in one.nodes.values()) for one in (with_gpus, without)]
    learner.scale = other_learner.scale = 3.0
    found["metrics"] = sync.serve(sync.publish(1))
    other_sync.serve(other_sync.publish(1))
    directories = ray.get([worker.read_from.remote() for worker in with_gpus.workers.values()])
    found["directories"] = len(set(directories))
    for _ in range(100):  # a node is not waited for that has something to remove
        found["versions kept"] = [len(os.listdir(Path(one).parent)) for one in directories]
        if found["versions kept"] == [1, 1]:
            break
        time.sleep(0.1)

    rollouts = []
    for rollout in with_gpus.generate(REQUESTS, Sampling(1.0, 3)):
        rollouts.append(rollout)
        if len(rollouts) == 4:
            cluster.remove_node(cluster.second, allow_graceful=False)
    wanted = Counter((one.prompt.key, i, one.seeds[i]) for one in REQUESTS for i in (0, 1))
    found["all rollouts"] = Counter((one.key, one.index, one.seed) for one in rollouts) == wanted
    found["versions"] = sorted({one.policy_version for one in rollouts})
    found["engines left"] = list(with_gpus.nodes.values()) == [first]
    learner.scale = other_learner.scale = 4.0
    found["metrics later"] = sync.serve(sync.publish(2))
    other_sync.serve(other_sync.publish(2))
    found["replaced on the first"] = list(without.nodes.values()) == [first] * 2
    for one in (sync, other_sync):
        one.close()
    for pool in (with_gpus, without):
        pool.close()
    shelves.sweep(Path(directories[0]).parents[1])  # what the killed node left, as the next run there would
    return found | told | {"left": [path for path in directories if Path(path).exists()]}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="two") as scratch:
        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
        common = {"num_gpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        head = {"num_cpus": 1, "_system_config": quick, "temp_dir": scratch, **common}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.second = cluster.add_node(num_cpus=0, **common)
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False)
            cluster.wait_for_nodes()
            print(json.dumps(story(cluster, scratch)))
        finally:
            ray.shutdown()
            cluster.shutdown()


if __name__ == "__main__":
    main()
