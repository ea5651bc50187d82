"""vLLM engines as Ray actors behind one rollout engine: samples out to all, rollouts back as they finish.

The constructor returns while the engines start, so that the caller can load the learner meanwhile;
``ready`` waits for them. Engine i is called "vLLM worker i" in every error.

An engine that dies, or hangs past its deadline, is replaced by another, on whichever node has a place for
it. That serves the newest weights; what the dead one still owed is generated again. Where no node has a
place, the others do without it. An engine works a quarter of a second at a time, so that it hears of what is
new; one that gives no answer in ``resources.call_timeout`` hangs.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from depo.errors import RunStopped
from depo.recipe import schema
from depo.rollout.calls import Calls, Died
from depo.rollout.dispatch import Dispatcher, Event, Finished, Gone, Left, Loaded
from depo.rollout.engine import Sampling, WeightSyncError, WeightUpdate
from depo.rollout.parity import Proof, Sequences
from depo.rollout.places import NoPlace, Places
from depo.rollout.schedule import Sample, Schedule
from depo.rollout.vllm.worker import LOOK_SECONDS, Dtype, VllmOptions, actor_class, worker_environment
from depo.types import Request, Rollout

GENERATING, LOADING, STARTING = "generating", "load_weights", "starting"

LIVES = 3
"""Deaths of an engine, without a rollout in between, that end the run: it is no accident any more."""

POLL = 0.05
"""Seconds after which one who waits for engines looks whether others have asked something else of them."""


@dataclass(eq=False)
class Asked:
    """What an engine does. ``references``: its answers; the last is waited for."""

    name: str
    what: str
    references: list[Any]
    update: WeightUpdate | None = None
    since: float = field(default_factory=time.monotonic)


Lost = Callable[[int, int], None]
"""Hears of a completion that was under way when its engine died: its seed, and its share of the tokens that
the engine had told of. There are at most as many as the engine decodes together."""


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

    With ``rollout.max_off_policy_steps`` an engine holds no more than it decodes together: what waits goes to
    whichever has room first. Without, it has all of its share at once, so that nothing depends on timing.
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
        self.update: WeightUpdate | None = None  # the newest
        self.proof: Proof | None = None
        """Of engines that have loaded it by themselves."""
        self.deaths: Counter[str] = Counter()
        self.stopped: RunStopped | None = None  # no engine is left
        self.closed = False
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

        slots = vllm.max_num_seqs if rollout.max_off_policy_steps else None
        turn = threading.Condition(threading.Lock())
        self.dispatcher = Dispatcher(turn, Schedule(self.workers, slots), self)
        self.lock = threading.Lock()
        self.asked: dict[Any, Asked] = {}  # by the reference that is waited for
        self.next: dict[str, list[Sample]] = {name: [] for name in self.workers}  # given while at work
        self.unfinished: Counter[str] = Counter()  # tokens decoded of what has not ended

    def start_worker(self, name: str) -> None:
        self.nodes.pop(name, None)
        if self.bundle:
            self.places[name] = Places([self.bundle])
            place = self.places[name].options()
        else:
            self.nodes[name] = self.emptiest_node()
            there = NodeAffinitySchedulingStrategy(self.nodes[name], soft=True)
            place = {"num_cpus": 0, "scheduling_strategy": there}
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
        pending = {name: self.ask(name, "ready") for name in self.workers}
        for name, place in self.places.items():
            place.wait(name, "set rollout.vllm.workers or tensor_parallel lower, or add nodes")
        deadline = time.monotonic() + timeout
        for name, reference in pending.items():
            if not ray.wait([reference], timeout=max(deadline - time.monotonic(), 0.0))[0]:
                raise RuntimeError(f"{name} is not up after {timeout:g} s")
            self.nodes[name] = self.get(name, reference, STARTING)

    def generate(
        self, requests: Iterable[Request], sampling: Sampling, oldest: int | None = None
    ) -> Iterator[Rollout]:
        """Yield rollouts as they finish on any engine. Several threads may ask at once.

        A consumer that stops early does not stop the engines: they finish what they were given, unless new
        weights are loaded.
        """
        return self.dispatcher.generate(requests, sampling, oldest)

    # ---------------------------------------------------------------- for the dispatcher

    def give(self, name: str, samples: Sequence[Sample]) -> None:
        with self.lock:
            self.next[name] += samples
            if any(one.name == name for one in self.asked.values()):
                return
            new, self.next[name] = self.next[name], []
            self._ask(name, GENERATING, [self.ask(name, "work", new, LOOK_SECONDS)])

    def load(self, name: str) -> None:
        with self.lock:
            self._load(name)

    def wait(self) -> list[Event]:
        with self.lock:
            asked = dict(self.asked)
        if not asked:
            raise self.stopped or RuntimeError("the engines are closed")
        ray.wait(list(asked), num_returns=1, timeout=POLL)
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        events = [event for reference in done if (event := self._answered(reference, asked[reference]))]
        for reference in asked.keys() - set(done):
            one = asked[reference]
            starts = one.what == STARTING and one.name in self.places
            if starts and self.places[one.name].due and (left := self._left(one.name)):
                events.append(left)
                continue
            waited, limit = time.monotonic() - one.since, self.calls.limit(one.what)
            if waited > limit and reference in self.asked:
                events.append(self._gone(one.name, self.calls.hung(one.name, one.what, waited)))
        return events

    def _answered(self, reference: Any, one: Asked) -> Event | None:
        """What an engine has done; None where it has been replaced since."""
        try:
            answers = [self.get(one.name, each, one.what) for each in one.references]
        except Died as error:
            return self._gone(one.name, error) if reference in self.asked else None
        self.calls.took(one.what, time.monotonic() - one.since)
        version = self._proved(one, answers) if one.what == LOADING else 0
        with self.lock:
            if self.asked.pop(reference, None) is None:
                return None
            if one.what == STARTING:
                (self.nodes[one.name],) = answers
                if self.update is not None:
                    self._load(one.name)
                    return None
        if one.what != GENERATING:
            return Loaded(one.name, version)
        look = answers[-1]
        ended = sum(len(rollout.token_ids) for rollout in look.finished)
        self.unfinished[one.name] += look.tokens - ended
        if look.finished:
            self.deaths[one.name] = 0
        self.heartbeat(look.tokens)
        return Finished(one.name, look.finished)

    def _gone(self, name: str, error: Died) -> Gone:
        with self.lock:
            self._drop(name)
        tokens = max(self.unfinished.pop(name, 0), 0)
        self.replace(name, error)
        return Gone(name, tokens, self.under_way)

    def _left(self, name: str) -> Left | None:
        """Wait for the place of an engine that starts. Where there is none, the others have to do; raises
        RunStopped where there are none."""
        try:
            self.places[name].wait(name, "to resume, set rollout.vllm.workers lower")
            return None
        except NoPlace as none:
            with self.lock:
                self._drop(name)
            ray.kill(self.workers.pop(name))
            del self.places[name]
            many = len(self.workers)
            if not many:
                self.stopped = RunStopped(f"no engine is left. {none}")
                raise self.stopped from none
            self.calls.say(f"warning: {none}. The run goes on with {many} engine{'s' if many > 1 else ''}")
            return Left(name)

    def _proved(self, one: Asked, answers: Sequence[Any]) -> int:
        """The version that the engine serves now. Raises WeightSyncError where it does not."""
        assert one.update is not None
        version = one.update.version
        if answers[0] != version:
            raise WeightSyncError(f"{one.name}: asked for policy version {version}, served: {answers[0]}")
        if self.proof is not None:
            self.proof.prove(one.name, version, answers[-1])
        return version

    def _load(self, name: str) -> None:
        """Have an engine load the newest weights and show them; with the lock held, so that they stay where
        they are."""
        update = self.update
        assert update is not None
        references = [self._read(name, update)]
        if self.proof is not None:
            references.append(self.ask(name, "score", self.proof.sequences))
        self._ask(name, LOADING, references, update)

    def _read(self, name: str, update: WeightUpdate) -> Any:
        return self.ask(name, "load_weights", self.near(update, self.nodes.get(name, "")))

    def _ask(self, name: str, what: str, references: list[Any], update: WeightUpdate | None = None) -> None:
        self.asked[references[-1]] = Asked(name, what, references, update)

    def _drop(self, name: str) -> None:
        """Expect nothing more of an engine; with the lock held."""
        self.next[name] = []
        for reference in [reference for reference, one in self.asked.items() if one.name == name]:
            del self.asked[reference]

    # ---------------------------------------------------------------- weights

    def replace(self, name: str, error: Died) -> None:
        """Begin to start another engine in place of one that has died or hangs. Raises ``error`` where that
        keeps happening."""
        self.deaths[name] += 1
        if self.closed or self.deaths[name] == LIVES:
            raise error
        self.calls.say(f"warning: {error}; another engine takes its place")
        ray.kill(self.workers[name])
        if name in self.places:
            self.places.pop(name).give_back()
        self.start_worker(name)
        with self.lock:
            self._ask(name, STARTING, [self.ask(name, "ready")])

    def offer(self, update: WeightUpdate) -> set[int]:
        """There is a newer policy: each engine loads it when it has run dry. Versions that are needed yet."""
        with self.lock:
            self.update = update
            needed = {one.update.version for one in self.asked.values() if one.update is not None}
        self.dispatcher.offer(update.version)
        return needed | {update.version}

    def load_weights(self, update: WeightUpdate) -> int:
        """Load ``update`` into all engines, while nobody generates; returns its version. Raises
        WeightSyncError."""
        versions = self.on_all("load_weights", lambda name: self._read(name, update))
        wrong = {name: version for name, version in versions.items() if version != update.version}
        if wrong:
            raise WeightSyncError(f"asked for policy version {update.version}, served: {wrong}")
        self.update = update
        self.dispatcher.serve(update.version)
        return update.version

    def score_each(self, sequences: Sequences) -> dict[str, list[np.ndarray]]:
        """Log-probabilities (temperature 1) of each (prompt ids, completion ids), arrays of (T,), by every
        engine, by its name: what the parity probe compares."""
        return self.on_all("score", lambda name: self.ask(name, "score", sequences))

    def close(self) -> None:
        """Stop the engines."""
        self.closed = True
        for worker in self.workers.values():
            ray.kill(worker)
        for place in self.places.values():
            place.give_back()
        self.workers, self.places = {}, {}

    def on_all(self, method: str, ask: Callable[[str], Any]) -> dict[str, Any]:
        """Ask all workers at once, while nobody generates; answers by worker name."""
        for name in [one.name for one in self.asked.values() if one.what == STARTING]:
            self._started(name)
        with self.lock:
            for name in self.workers:  # of a stream that was given up
                self._drop(name)
        self.unfinished.clear()
        self.dispatcher.forget()
        pending = {name: ask(name) for name in self.workers}
        results = {}
        for name, reference in pending.items():
            try:
                results[name] = self.get(name, reference, method)
            except Died as error:  # it may have died long before, while there was nothing to do
                self.replace(name, error)
        for name in pending.keys() - results.keys():
            if self._started(name):
                results[name] = self.get(name, ask(name), method)
        return results

    def _started(self, name: str) -> bool:
        """Wait for an engine that starts in place of another; False where it has found no place."""
        while under_way := [(reference, one) for reference, one in self.asked.items() if one.name == name]:
            ((reference, one),) = under_way
            if name in self.places and self._left(name) is not None:
                self.dispatcher.leave(name)
                return False
            self.calls.wait([reference], name, one.what)
            self._answered(reference, one)
        return True

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
