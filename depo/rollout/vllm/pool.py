"""vLLM engines as Ray actors behind one rollout engine: samples out to all, rollouts back as they finish.

The constructor returns while the engines start, so that the caller can load the learner meanwhile;
``ready`` waits for them. Engine i is called "vLLM worker i" in every error.

An engine that dies is replaced by another, which serves the weights that were loaded last and generates what
the dead one still owed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError

from depo.recipe import schema
from depo.rollout.calls import Calls, Died
from depo.rollout.engine import LOOK_SECONDS, Sampling, WeightSyncError, WeightUpdate
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
        self.closed = False
        self.replaced: Callable[[str], None] = lambda name: None
        """Called with the name of an engine that has just taken a dead one's place."""
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
        remote = actor_class().options(
            num_cpus=0,
            num_gpus=num_gpus_per_worker,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": worker_environment(threads)},
        )
        self.start_worker = lambda: remote.remote(options)
        self.workers = {f"vLLM worker {index}": self.start_worker() for index in range(vllm.workers)}
        self.num_gpus = num_gpus_per_worker * vllm.workers

    def ready(self, timeout: float = 1800.0) -> None:
        """Wait until every engine is up; RuntimeError names the one that is not after ``timeout`` s."""
        pending = {name: worker.ready.remote() for name, worker in self.workers.items()}
        deadline = time.monotonic() + timeout
        for name, reference in pending.items():
            if ray.wait([reference], timeout=max(deadline - time.monotonic(), 0.0))[0]:
                self.get(name, reference, "starting")
            else:
                free, gpus = (
                    resources.get("GPU", 0)
                    for resources in (ray.available_resources(), ray.cluster_resources())
                )
                raise RuntimeError(
                    f"{name} is not up after {timeout:g} s: the engines ask for {self.num_gpus} GPUs; of the "
                    f"Ray cluster's {gpus:g}, {free:g} are not taken by engines that are up or by the learner"
                )

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Rollout]:
        """Yield rollouts as they finish on any engine. Samples go round the engines one by one.

        A consumer that stops early does not stop the engines: they finish what they were given before
        they answer the next call.
        """
        streams: dict[Any, str] = {}  # Ray's generator of one engine's looks, by which engine it is
        owed: dict[str, dict[tuple[str, int], Request]] = {}  # by engine, then by prompt and sample index
        unfinished: Counter[str] = Counter()  # tokens decoded for these

        def begin(name: str) -> None:
            generate = self.workers[name].generate.options(num_returns="streaming")
            streams[generate.remote(list(owed[name].values()), sampling, LOOK_SECONDS)] = name

        for name, share in zip(list(self.workers), dealt(requests, len(self.workers)), strict=True):
            owed[name] = {(one.prompt.key, one.first_index): one for one in share}
            if share:
                begin(name)
        while streams:
            stream = self.calls.wait(list(streams), " and ".join(streams.values()), GENERATING)
            try:
                reference = next(stream)
            except StopIteration:
                del streams[stream]
                continue
            name = streams[stream]
            try:
                look = self.get(name, reference, GENERATING)
            except Died as error:
                del streams[stream]
                self.lost([key for key, _ in owed[name]][: self.under_way], max(unfinished[name], 0))
                unfinished[name] = 0
                self.replace(name, error)
                if owed[name]:
                    begin(name)
                continue
            unfinished[name] += look.tokens
            for rollout in look.finished:
                self.deaths[name] = 0
                unfinished[name] -= len(rollout.token_ids)
                del owed[name][rollout.key, rollout.index]
                yield rollout
            self.heartbeat(look.tokens)

    def replace(self, name: str, error: Died) -> None:
        """Another engine in place of one that has died. Raises ``error`` where that keeps happening."""
        self.deaths[name] += 1
        if self.closed or self.deaths[name] == LIVES:
            raise error
        self.calls.say(f"warning: {error}; another engine takes its place")
        self.workers[name] = self.start_worker()
        self.get(name, self.workers[name].ready.remote(), "starting")
        if self.update is not None:
            self.get(name, self.workers[name].load_weights.remote(self.update), "load_weights")
        self.replaced(name)

    def load_weights(self, update: WeightUpdate) -> int:
        """Load ``update`` into all engines; returns its version. Raises WeightSyncError."""
        versions = self.on_all("load_weights", update)
        wrong = {name: version for name, version in versions.items() if version != update.version}
        if wrong:
            raise WeightSyncError(f"asked for policy version {update.version}, served: {wrong}")
        self.update = update
        return update.version

    def score_each(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], of: Sequence[str] | None = None
    ) -> dict[str, list[np.ndarray]]:
        """Log-probabilities (temperature 1) of each (prompt ids, completion ids), arrays of (T,), by every
        engine (or those named), by its name: what the parity probe compares."""
        return self.on_all("score", sequences, of=of)

    def close(self) -> None:
        """Stop the engines."""
        self.closed = True
        for worker in self.workers.values():
            ray.kill(worker)
        self.workers = {}

    def on_all(self, method: str, *arguments: Any, of: Sequence[str] | None = None) -> dict[str, Any]:
        """Call a method on all workers (or those named) at once; results by worker name."""
        pending = {name: self.ask(name, method, *arguments) for name in of or list(self.workers)}
        results = {}
        for name, reference in pending.items():
            try:
                results[name] = self.get(name, reference, method)
            except Died as error:  # it may have died long before, while there was nothing to do
                self.replace(name, error)
                results[name] = self.get(name, self.ask(name, method, *arguments), method)
        return results

    def ask(self, name: str, method: str, *arguments: Any) -> Any:
        return getattr(self.workers[name], method).remote(*arguments)

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
