"""Getting the learner's weights to the engine that serves them, and proof that they arrived."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from depo.files import locked, writing
from depo.rollout import parity
from depo.rollout.engine import RolloutEngine, WeightSyncError, WeightUpdate
from depo.rollout.parity import ParityProbe

SHARED_MEMORY = Path("/dev/shm")

PREFIX, LOCKED = "depo-weights-", ".lock"


class Learner(parity.Learner, Protocol):
    """Whose weights are handed over."""

    def export_trained(self, directory: Path) -> None:
        """Write what an engine lacks that was started from the same checkpoint."""
        ...


class Engines(RolloutEngine, parity.Engine, Protocol):
    """Where they go: engines in processes of their own, ``workers`` by name."""

    @property
    def workers(self) -> Mapping[str, object]: ...

    def ready(self) -> None:
        """Wait until all are up."""
        ...


class WeightSync(Protocol):
    def start(self, version: int) -> None:
        """Prove with a perturbed policy that weights arrive; then serve the real one as ``version``."""
        ...

    def __call__(self, version: int) -> dict[str, float]:
        """Serve the learner's present weights as ``version``. Raises WeightSyncError if that fails."""
        ...

    def close(self) -> None: ...


class SharedWeights:
    """Learner and engine hold the same tensors: only the version number moves."""

    def __init__(self, engine: RolloutEngine) -> None:
        self.engine = engine

    def start(self, version: int) -> None:
        self(version)

    def __call__(self, version: int) -> dict[str, float]:
        served = self.engine.load_weights(WeightUpdate(version))
        if served != version:
            raise WeightSyncError(f"the engine serves policy version {served}, expected {version}")
        return {}

    def close(self) -> None:
        """Nothing was made."""


class DirectorySync:
    """Weights go through a directory on a memory file system; every sync ends with the parity probe.

    The engines were started from the learner's checkpoint: they are sent the blocks that are trained.
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
        base = root or (
            SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(os.environ.get("TMPDIR", "/tmp"))
        )
        sweep(base)
        run = hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:12]
        self.directory = base.absolute() / f"{PREFIX}{run}"
        self.lock_file = self.directory.with_suffix(LOCKED)
        self.lock = ExitStack()
        with writing(base):
            base.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # where the file system knows no locks, nothing is swept either
            self.lock.enter_context(locked(self.lock_file))
        self.learner = learner
        self.engine = engine
        self.probe = probe
        self.seed = seed
        self.say = say
        self.seconds = 0.0  # that the last policy took to arrive

    def start(self, version: int) -> None:
        many = len(self.engine.workers)
        self.say(f"vLLM: waiting for {many} engine{'s' if many > 1 else ''} to load the policy")
        started = time.perf_counter()
        self.engine.ready()
        self.say(f"vLLM: up after {time.perf_counter() - started:.0f} s; now proving that weights arrive")
        result = self.probe.verify_startup(self.learner, self.engine, lambda: self._send(version), self.seed)
        self.say(
            f"vLLM: weights arrive, the last in {self.seconds:.2g} s; learner and engines are "
            f"{result.mean_abs:.1g} nats a token apart, {self.probe.tolerance:g} allowed"
        )

    def __call__(self, version: int) -> dict[str, float]:
        self._send(version)
        result = self.probe.verify(self.learner, self.engine, f"after the sync of policy version {version}")
        return {"parity/mean_abs": result.mean_abs, "parity/max_abs": result.max_abs}

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.lock.close()
        self.lock_file.unlink(missing_ok=True)

    def _send(self, version: int) -> None:
        started = time.perf_counter()
        shutil.rmtree(self.directory, ignore_errors=True)
        with writing(self.directory):
            self.directory.mkdir(parents=True)
            self.learner.export_trained(self.directory)
        served = self.engine.load_weights(WeightUpdate(version, str(self.directory)))
        if served != version:
            raise WeightSyncError(f"the engine serves policy version {served}, expected {version}")
        self.seconds = time.perf_counter() - started
        shutil.rmtree(self.directory, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove the weights that killed runs left: gigabytes of memory. A living run holds its lock."""
    for lock in base.glob(f"{PREFIX}*{LOCKED}"):
        with suppress(OSError), locked(lock):  # another's file, or in use
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
