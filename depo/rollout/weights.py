"""Getting the learner's weights to the engine that serves them. Every sync ends with the parity probe
(`depo.rollout.parity`)."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from depo.files import writing
from depo.rollout.engine import RolloutEngine, WeightSyncError, WeightUpdate
from depo.rollout.parity import Engines, Learner, ParityProbe, ProbeResult, Scores, Sequences
from depo.rollout.shelves import Shelves


@dataclass(frozen=True, slots=True)
class Handover:
    """A policy that the learner has handed over, and its own scores of the probe's sequences. ``seconds`` it
    took to write."""

    update: WeightUpdate
    scores: Scores = ()
    seconds: float = 0.0


class WeightSync(Protocol):
    """A sync has two halves, so that the learner can go on while the engines are still generating."""

    def start(self, version: int) -> None:
        """Prove with a perturbed policy that weights arrive; then serve the real one as ``version``."""
        ...

    def publish(self, version: int) -> Handover:
        """The learner's half: its present weights, to be served as ``version``."""
        ...

    def serve(self, handover: Handover) -> dict[str, float]:
        """The engines' half, while they generate nothing. Raises WeightSyncError if that fails."""
        ...

    def offer(self, handover: Handover) -> dict[str, float]:
        """The same while they generate: each engine loads it once it has run dry. The metrics are those of
        the newest policy that one of them has loaded."""
        ...

    def close(self) -> None: ...


class SharedWeights:
    """Learner and engine hold the same tensors: only the version number moves."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine

    def start(self, version: int) -> None:
        self.serve(self.publish(version))

    def publish(self, version: int) -> Handover:
        return Handover(WeightUpdate(version))

    def serve(self, handover: Handover) -> dict[str, float]:
        load(self.engine, handover.update)
        return {}

    def offer(self, handover: Handover) -> dict[str, float]:
        return self.serve(handover)

    def close(self) -> None:
        """Nothing was made."""


def load(engine: RolloutEngine, update: WeightUpdate) -> None:
    served = engine.load_weights(update)
    if served != update.version:
        raise WeightSyncError(f"the engine serves policy version {served}, expected {update.version}")


class DirectorySync:
    """Weights go through a directory on a memory file system, and from there to each other node that has
    engines (``depo.rollout.shelves``), or through ``root``, a directory that all nodes see. Every sync ends
    with the parity probe.

    The engines were started from the learner's checkpoint: they are sent the blocks that are trained. The
    newest policy stays in the directory, for an engine that has to be replaced.
    """

    def __init__(
        self,
        learner: Learner,
        engine: Engines,
        probe: ParityProbe,
        root: Path | None,
        run_dir: Path,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        run = hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:12]
        self.shelves = Shelves(root, run)
        self.learner = learner
        self.engine = engine
        self.probe = probe
        self.seed = seed
        self.say = say
        self.seconds = 0.0  # that the last policy took to arrive
        self.numbers = itertools.count()
        self.known: dict[int, Handover] = {}  # by version, what is on the shelves
        self.proved = -1  # newest version that an engine has proved to serve
        self.parity: dict[str, float] = {}  # of that
        engine.proof, engine.near = self, self.near

    @property
    def sequences(self) -> Sequences:
        return self.probe.sequences

    def start(self, version: int) -> None:
        many = len(self.engine.workers)
        self.say(f"vLLM: waiting for {many} engine{'s' if many > 1 else ''} to load the policy")
        started = time.perf_counter()
        self.engine.ready()
        self.shelves.begin(self.learner.node(), self.engine.calls)
        self.say(f"vLLM: up after {time.perf_counter() - started:.0f} s; now proving that weights arrive")
        result = self.probe.verify_startup(self.learner, self.engine, lambda: self._send(version), self.seed)
        self.known[version] = Handover(self.known[version].update, self.learner.score(self.sequences))
        elsewhere = len(self.shelves.others)
        way = f", through Ray to {elsewhere} other node{'s' if elsewhere > 1 else ''}" if elsewhere else ""
        self.say(
            f"vLLM: weights arrive, the last in {self.seconds:.2g} s{way}; learner and engines are "
            f"{result.mean_abs:.1g} nats a token apart, {self.probe.tolerance:g} allowed"
        )

    def publish(self, version: int) -> Handover:
        started = time.perf_counter()
        update = self._export(version)
        seconds = time.perf_counter() - started
        return Handover(update, self.learner.score(self.sequences), seconds)

    def serve(self, handover: Handover) -> dict[str, float]:
        started = time.perf_counter()
        metrics = self._carry(handover)
        self._load(handover)
        metrics["sync/seconds"] = handover.seconds + time.perf_counter() - started
        what = f"after the sync of policy version {handover.update.version}"
        result = self.probe.check_each(handover.scores, self.engine, what)
        return metrics | self._metrics(result)

    def offer(self, handover: Handover) -> dict[str, float]:
        metrics = self._carry(handover)
        self.known[handover.update.version] = handover
        needed = self.engine.offer(handover.update)
        for version in self.known.keys() - needed:
            self._discard(self.known.pop(version))
        return metrics | self.parity

    def near(self, update: WeightUpdate, node: str) -> WeightUpdate:
        name = directory_name(update)
        self.shelves.bring(name, [node])
        return replace(update, directory=self.shelves.copies.get((name, node), update.directory))

    def prove(self, name: str, version: int, scores: Scores) -> None:
        """That an engine which has loaded a policy by itself serves it. Raises WeightSyncError."""
        expected = self.known[version].scores
        if not expected:  # at start-up, before the real policy
            return
        result = self.probe.check(expected, scores, f"{name} (given policy version {version})")
        if version > self.proved or (
            version == self.proved and result.mean_abs > self.parity["parity/mean_abs"]
        ):
            self.proved, self.parity = version, self._metrics(result)

    @staticmethod
    def _metrics(result: ProbeResult) -> dict[str, float]:
        return {"parity/mean_abs": result.mean_abs, "parity/max_abs": result.max_abs}

    def _discard(self, handover: Handover) -> None:
        self.shelves.remove(directory_name(handover.update))

    def close(self) -> None:
        self.shelves.close()

    def _export(self, version: int) -> WeightUpdate:
        directory = self.shelves.make(f"{version}-{next(self.numbers)}")
        with writing(Path(directory)):
            self.learner.export(Path(directory), trained_only=True)
        return WeightUpdate(version, directory)

    def _carry(self, handover: Handover) -> dict[str, float]:
        """To all nodes that have engines, before these are told."""
        started, name = time.perf_counter(), directory_name(handover.update)
        copies = self.shelves.bring(name, set(self.engine.nodes.values()))
        return {
            "sync/carry_seconds": time.perf_counter() - started,
            "sync/bytes": float(sum(self.shelves.files(name).values())),
            "sync/copies": float(copies),
        }

    def _send(self, version: int) -> None:
        started = time.perf_counter()
        self._load(Handover(self._export(version)))
        self.seconds = time.perf_counter() - started

    def _load(self, handover: Handover) -> None:
        load(self.engine, handover.update)
        for before in self.known.values():
            self._discard(before)
        self.known = {handover.update.version: handover}


def directory_name(update: WeightUpdate) -> str:
    """Of an update's directory on each node's shelf."""
    assert update.directory is not None
    return Path(update.directory).name
