"""vLLM engines as Ray actors behind one rollout engine: samples out to all, rollouts back as they finish.

The constructor returns while the engines start, so that the caller can load the learner meanwhile;
``ready`` waits for them. Engine i is called "vLLM worker i" in every error.

An engine that dies is replaced by another, on whichever node has a place for it. That one serves the weights
that were loaded last and generates what the dead one still owed. Where no node has a place, the others do it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from depo.errors import RunStopped
from depo.recipe import schema
from depo.rollout.calls import Calls, Died
from depo.rollout.engine import LOOK_SECONDS, Sampling, WeightSyncError, WeightUpdate
from depo.rollout.places import PLACED, NoPlace, Places
from depo.rollout.vllm.worker import Dtype, VllmOptions, actor_class, worker_environment
from depo.types import Request, Rollout

GENERATING = "generating"

LIVES = 3
"""Deaths of an engine, without a rollout in between, that end the run: it is no accident any more."""

Lost = Callable[[Sequence[str], int], None]
"""Hears of rollouts that were under way when their engine died: their prompts' keys, at most as many as it
decodes together, and the tokens that it had told of."""


class VllmPool:
    """A ``RolloutEngine`` over ``rollout.vllm.workers`` vLLM engines.

    ``model`` is a directory or hub id that every node can read; it is served as policy version 0.
    ``context_length`` (tokens, prompt and completion) applies where ``rollout.vllm.max_model_len`` is
    null. A completion ends at any of ``eos_token_ids`` and at nothing else. ``threads`` are the CPU
    threads of each engine (None: all cores). ``num_gpus_per_worker`` is 0 on CPUs, else normally
    ``rollout.vllm.tensor_parallel``. ``routed_layers`` are the decoder layers whose experts rollouts bring
    along (none: they bring none). ``heartbeat`` is told every few seconds how many tokens an engine has
    decoded since it was told last, whether or not a sample has ended. ``calls`` says how long to wait for an
    engine. ``lost`` hears what died with an engine. Ray must be initialised.
    """

    def __init__(
        self,
        rollout: schema.Rollouts,
        model: str,
        *,
        dtype: Dtype,
        context_length: int,
        eos_token_ids: Sequence[int],
        threads: int | None = None,
        num_gpus_per_worker: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        seed: int = 0,
        routed_layers: Sequence[int] = (),
        heartbeat: Callable[[int], None] | None = None,
        calls: Calls | None = None,
        lost: Lost = lambda keys, tokens: None,
    ) -> None:
        self.lost = lost
        self.under_way = rollout.vllm.max_num_seqs
        self.update: WeightUpdate | None = None  # loaded last
        self.deaths: Counter[str] = Counter()
        self.full = -PLACED  # when the cluster had no place for an engine, seconds
        self.closed = False
        self.replaced: Callable[[str], None] = lambda name: None
        """Called with the name of an engine that has just taken a dead one's place."""
        self.near: Callable[[WeightUpdate, str], WeightUpdate] = lambda update, node: update
        """The update with a directory that a node (Ray's id) can read."""
        self.nodes: dict[str, str] = {}
        """By engine, the node that it is on, or is to be on; of those with GPUs only once they are up."""
        self.heartbeat = heartbeat or (lambda tokens: None)
        self.calls = calls or Calls()
        vllm = rollout.vllm
        options = VllmOptions(
            model=str(model),
            dtype=dtype,
            max_model_len=vllm.max_model_len or context_length,
            eos_token_ids=tuple(int(token) for token in eos_token_ids),
            revision=revision,
            trust_remote_code=trust_remote_code,
            max_num_seqs=vllm.max_num_seqs,
            enforce_eager=vllm.enforce_eager,
            tensor_parallel=vllm.tensor_parallel,
            gpu_memory_utilization=vllm.gpu_memory_utilization,
            cpu_kv_cache_gib=vllm.cpu_kv_cache_gib,
            seed=seed,
            routed_layers=tuple(routed_layers),
        )
        # Learner and engines take turns, so an engine reserves no CPU of Ray's count; GPUs it does.
        self.bundle = {"GPU": float(num_gpus_per_worker)} if num_gpus_per_worker else {}
        self.places: dict[str, Places] = {}
        self.environment = {"env_vars": worker_environment(threads)}
        self.options = options
        self.workers: dict[str, Any] = {}
        for index in range(vllm.workers):
            self.start_worker(f"vLLM worker {index}")

    def start_worker(self, name: str) -> None:
        self.nodes.pop(name, None)
        if self.bundle:
            self.places[name] = Places([self.bundle])
            place = self.places[name].options()
        else:
            self.nodes[name] = self.emptiest_node()
            place = {
                "num_cpus": 0,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(self.nodes[name], soft=True),
            }
        worker = actor_class().options(runtime_env=self.environment, **place)
        self.workers[name] = worker.remote(self.options)

    def emptiest_node(self) -> str:
        """Of those alive, the driver's first: Ray puts actors that reserve nothing anywhere."""
        engines, own = Counter(self.nodes.values()), ray.get_runtime_context().get_node_id()
        alive = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        return min(alive, key=lambda node: (engines[node], node != own))

    def ready(self, timeout: float = 1800.0) -> None:
        """Wait until every engine is up; RuntimeError names the one that is not after ``timeout`` s. Raises
        NoPlace where the Ray cluster has no room for one."""
        pending = {name: worker.ready.remote() for name, worker in self.workers.items()}
        for name, place in self.places.items():
            place.wait(name, "set rollout.vllm.workers or tensor_parallel lower, or add nodes")
        deadline = time.monotonic() + timeout
        for name, reference in pending.items():
            if not ray.wait([reference], timeout=max(deadline - time.monotonic(), 0.0))[0]:
                raise RuntimeError(f"{name} is not up after {timeout:g} s")
            self.nodes[name] = self.get(name, reference, "starting")

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Yield rollouts as they finish on any engine. Samples go round the engines one by one.

        A consumer that stops early does not stop the engines: they finish what they were given before
        they answer the next call.
        """
        streams: dict[Any, str] = {}  # Ray's generator of one engine's looks, by which engine it is
        owed: dict[str, dict[tuple[str, int], Request]] = {name: {} for name in self.workers}
        unfinished: Counter[str] = Counter()  # tokens decoded for these, by engine

        def begin(name: str, requests: list[Request]) -> None:
            owed[name] |= {(one.prompt.key, one.first_index): one for one in requests}
            generate = self.workers[name].generate.options(num_returns="streaming")
            streams[generate.remote(requests, sampling, LOOK_SECONDS)] = name

        def deal(requests: Iterable[Request]) -> None:
            for name, share in zip(list(self.workers), dealt(requests, len(self.workers)), strict=True):
                if share:
                    begin(name, share)

        deal(requests)
        while streams:
            stream = self.calls.wait(list(streams), " and ".join(dict.fromkeys(streams.values())), GENERATING)
            try:
                reference = next(stream)
            except StopIteration:
                del streams[stream]
                continue
            name = streams[stream]
            try:
                look = self.get(name, reference, GENERATING)
            except Died as error:
                for one in [one for one, of in streams.items() if of == name]:
                    del streams[one]
                self.lost([key for key, _ in owed[name]][: self.under_way], max(unfinished[name], 0))
                unfinished[name] = 0
                left = list(owed[name].values())
                owed[name] = {}
                if not self.replace(name, error):
                    deal(left)
                elif left:
                    begin(name, left)
                continue
            unfinished[name] += look.tokens
            for rollout in look.finished:
                self.deaths[name] = 0
                unfinished[name] -= len(rollout.token_ids)
                del owed[name][rollout.key, rollout.index]
                yield rollout
            self.heartbeat(look.tokens)

    def replace(self, name: str, error: Died) -> bool:
        """Another engine in place of one that has died; False where the cluster has no place for it, and the
        others have to do. Raises ``error`` where that keeps happening, RunStopped where no engine is left."""
        self.deaths[name] += 1
        if self.closed or self.deaths[name] == LIVES:
            raise error
        self.calls.say(f"warning: {error}; another engine takes its place")
        if name in self.places:
            self.places.pop(name).give_back()
        self.start_worker(name)
        try:
            if name in self.places:
                # What was full a moment ago is full now, too: a node takes all its engines with it.
                seconds = 1.0 if time.monotonic() - self.full < PLACED else PLACED
                self.places[name].wait(name, "to resume, set rollout.vllm.workers lower", seconds)
            self.nodes[name] = self.get(name, self.workers[name].ready.remote(), "starting")
            if self.update is not None:
                self.get(name, self.load(name, self.update), "load_weights")
        except Died as again:
            return self.replace(name, again)
        except NoPlace as none:
            self.full = time.monotonic()
            ray.kill(self.workers.pop(name))
            del self.places[name]
            if not self.workers:
                raise RunStopped(f"{error}; no engine is left. {none}") from none
            many = len(self.workers)
            self.calls.say(f"warning: {none}. The run goes on with {many} engine{'s' if many > 1 else ''}")
            return False
        self.replaced(name)
        return True

    def load_weights(self, update: WeightUpdate) -> int:
        """Load ``update`` into all engines; returns its version. Raises WeightSyncError."""
        versions = self.on_all("load_weights", lambda name: self.load(name, update))
        wrong = {name: version for name, version in versions.items() if version != update.version}
        if wrong:
            raise WeightSyncError(f"asked for policy version {update.version}, served: {wrong}")
        self.update = update
        return update.version

    def load(self, name: str, update: WeightUpdate) -> Any:
        return self.workers[name].load_weights.remote(self.near(update, self.nodes.get(name, "")))

    def score_each(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], of: Sequence[str] | None = None
    ) -> dict[str, list[np.ndarray]]:
        """Log-probabilities (temperature 1) of each (prompt ids, completion ids), arrays of (T,), by every
        engine (or those named), by its name: what the parity probe compares."""
        return self.on_all("score", lambda name: self.workers[name].score.remote(sequences), of)

    def close(self) -> None:
        """Stop the engines."""
        self.closed = True
        for worker in self.workers.values():
            ray.kill(worker)
        for place in self.places.values():
            place.give_back()
        self.workers, self.places = {}, {}

    def on_all(
        self, method: str, ask: Callable[[str], Any], of: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Ask all workers (or those named) at once; answers by worker name."""
        pending = {name: ask(name) for name in of or list(self.workers)}
        results = {}
        for name, reference in pending.items():
            try:
                results[name] = self.get(name, reference, method)
            except Died as error:  # it may have died long before, while there was nothing to do
                if self.replace(name, error):
                    results[name] = self.get(name, ask(name), method)
        return results

    def get(self, name: str, reference: Any, what: str) -> Any:
        """A worker's answer; its failures are re-raised under its name."""
        try:
            return self.calls.get(reference, name, what)
        except RayActorError as error:
            raise RuntimeError(f"{name} died: {error}") from error
        except RayTaskError as error:
            if isinstance(error.cause, WeightSyncError):
                raise WeightSyncError(f"{name}: {error.cause}") from error
            raise RuntimeError(f"{name}: {type(error.cause).__name__}: {error.cause}") from error


def dealt(requests: Iterable[Request], hands: int) -> list[list[Request]]:
    """One-sample requests dealt round ``hands`` engines, in order."""
    single = [
        Request(request.prompt, (seed,), request.first_index + offset)
        for request in requests
        for offset, seed in enumerate(request.seeds)
    ]
    return [single[hand::hands] for hand in range(hands)]
