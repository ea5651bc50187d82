"""Proof that an engine serves the learner's weights: the parity probe.

Do learner and engine agree on what a few fixed token sequences are worth? A weight sync can report success
and leave old weights being served, so nothing an engine says about its own sync is believed. After every sync
both sides score the same sequences. A single small update can lie below the engine's noise; therefore the
probe also runs once at start-up with a visibly perturbed policy, which a sync that does nothing cannot pass.

Shapes: S sequences, T completion tokens of one sequence. Differences are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from depo.rng import generator
from depo.rollout.calls import Calls
from depo.rollout.engine import RolloutEngine, WeightSyncError, WeightUpdate
from depo.types import Prompt

Sequences = Sequence[tuple[Sequence[int], Sequence[int]]]  # (prompt ids, completion ids), S of them

Scores = Sequence[np.ndarray]  # S arrays of (T,)

# Largest accepted mean |difference|. Measured between vLLM and transformers on CPU, over fours of
# pseudo-random continuations (mean log-probability −13): float32 1e-6 to 1e-5; bfloat16 0.07 to 0.08 on
# SmolLM2-135M and 0.02 on a tiny qwen3_moe.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15}

# The same of mixtures of experts: in bfloat16 both sides route some tokens apart. Measured, vLLM 0.24 on one
# H200: 0.25 to 0.43 over five syncs of the mixture made from SmolLM2-135M (30 layers, 4 of 8 experts).
MIXTURE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.6}

# By how many tolerances the perturbed policy must differ from the real one at start-up: an engine that stayed
# behind is then off by one tolerance at least, noise and all. Noise of a twentieth of each weight moves such
# scores by 0.6 to 1.5 nats (the models above).
MARGIN = 2.0

SCALES = (1.0, 2.0, 4.0, 8.0)  # of the perturbation, until it shows


class Learner(Protocol):
    """Whose weights are handed over."""

    def score(self, sequences: Sequences) -> Scores: ...

    def perturb(self, seed: int, scale: float) -> object: ...

    def restore(self) -> object: ...

    def node(self) -> str:
        """The node that writes its weights, by Ray's id."""
        ...

    def export(self, directory: Path, trained_only: bool) -> None:
        """Write the policy; with ``trained_only`` what an engine lacks that was started from the same
        checkpoint."""
        ...


class Engines(RolloutEngine, Protocol):
    """Where they go: engines in processes of their own, by name; and the nodes of those that are up."""

    calls: Calls

    @property
    def workers(self) -> Mapping[str, object]: ...

    @property
    def nodes(self) -> Mapping[str, str]: ...

    def ready(self) -> None:
        """Wait until all are up."""
        ...

    proof: Any
    """The `DirectorySync`, which hears of engines that have loaded a policy by themselves: when they ran dry,
    or in place of one that has died."""

    near: Callable[[WeightUpdate, str], WeightUpdate]
    """Called before an engine loads an update, with its node: the update with a directory to read there."""

    def offer(self, update: WeightUpdate) -> Set[int]:
        """Have each engine load this when it has run dry; returns the versions whose directories are needed
        yet."""
        ...

    def score_each(self, sequences: Sequences) -> Mapping[str, Scores]:
        """By engine name, because each engine has to pass the probe on its own."""
        ...


class Proof(Protocol):
    """That an engine serves what it has loaded by itself."""

    @property
    def sequences(self) -> Sequences: ...

    def prove(self, name: str, version: int, scores: Scores) -> None:
        """Raises WeightSyncError unless these are the scores of this version."""
        ...


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Mean and largest |difference| over all scored tokens, nats."""

    mean_abs: float
    max_abs: float


def default_tolerance(dtype: str, mixture: bool = False) -> float:
    """Accepted mean |difference| in nats for engines computing in ``dtype``; ``mixture``: of experts."""
    known = MIXTURE_TOLERANCE if mixture else TOLERANCE
    if dtype not in known:
        raise ValueError(f"no parity tolerance for dtype {dtype!r}; known: {', '.join(known)}")
    return known[dtype]


def choose_sequences(
    prompts: Sequence[Prompt],
    vocab_size: int,
    seed: int,
    *,
    count: int = 4,
    prompt_tokens: int = 64,
    completion_tokens: int = 16,
    longest: int | None = None,
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """A few prompts of the pool, each continued by pseudo-random tokens; the same for the same seed.

    Prompts are cut to ``prompt_tokens``, and both so that a sequence has at most ``longest`` tokens. Random
    continuations touch rows of the embedding and experts that the policy's own samples would not.
    """
    if not prompts:
        raise ValueError("the parity probe needs at least one prompt")
    if longest is not None:
        completion_tokens = min(completion_tokens, max(longest // 2, 1))
        prompt_tokens = min(prompt_tokens, longest - completion_tokens)
    rng = generator(seed, "probe")
    rows = rng.choice(len(prompts), size=min(count, len(prompts)), replace=False)
    return [
        (
            tuple(prompts[row].token_ids[:prompt_tokens]),
            tuple(int(token) for token in rng.integers(vocab_size, size=completion_tokens)),
        )
        for row in rows
    ]


def difference(left: Scores, right: Scores) -> ProbeResult:
    """Mean and largest |left − right|; raises ValueError when the shapes differ."""
    shapes_left, shapes_right = [len(row) for row in left], [len(row) for row in right]
    if shapes_left != shapes_right:
        raise ValueError(f"score lengths differ: {shapes_left} and {shapes_right}")
    gaps = np.abs(np.concatenate(left).astype(np.float64) - np.concatenate(right))
    return ProbeResult(mean_abs=float(gaps.mean()), max_abs=float(gaps.max()))


@dataclass(frozen=True, slots=True)
class ParityProbe:
    """Fixed sequences and the largest mean |difference| of log-probabilities that counts as equal."""

    sequences: Sequences
    tolerance: float

    def check(self, learner_scores: Scores, engine_scores: Scores, what: str) -> ProbeResult:
        """Raises WeightSyncError, naming ``what`` and by how much, when the two disagree."""
        result = difference(learner_scores, engine_scores)
        if not result.mean_abs <= self.tolerance:  # also when it is NaN
            raise WeightSyncError(
                f"{what} does not serve the learner's weights: log-probabilities differ by "
                f"{result.mean_abs:.2g} nats on average ({result.max_abs:.2g} at most), "
                f"tolerance {self.tolerance:.2g} (rollout.vllm.parity_tolerance)"
            )
        return result

    def verify(self, learner: Learner, engine: Engines, what: str) -> ProbeResult:
        """Compare every engine with the learner as it is now; returns the worst. After each sync."""
        return self.check_each(learner.score(self.sequences), engine, what)

    def verify_startup(
        self, learner: Learner, engine: Engines, sync: Callable[[], object], seed: int = 0
    ) -> ProbeResult:
        """Prove that ``sync`` (export, then load into all engines) carries weights over.

        Perturbs the learner until it shows, syncs, and compares; then restores it, syncs, and compares again.
        The engines end up with the learner's real weights, and so does the learner, whatever happens.
        """
        real = learner.score(self.sequences)
        try:
            perturbed = self.perturbed(learner, real, seed)
            sync()
            self.check_each(perturbed, engine, "at start-up, with a perturbed policy")
        finally:
            learner.restore()
        restored = learner.score(self.sequences)
        self.check(real, restored, "the learner, after its perturbation was taken back,")
        sync()
        return self.check_each(restored, engine, "at start-up")

    def perturbed(self, learner: Learner, real: Scores, seed: int) -> Scores:
        """Perturb the learner until that shows; its scores then. WeightSyncError if it never does."""
        least = MARGIN * self.tolerance
        for scale in SCALES:
            if scale > SCALES[0]:
                learner.restore()
            learner.perturb(seed, scale)
            scores = learner.score(self.sequences)
            moved = difference(scores, real).mean_abs
            if moved >= least:
                return scores
        # A perturbation that the tolerance would hide proves nothing.
        raise WeightSyncError(
            f"the start-up probe's perturbation moved the learner by {moved:.2g} nats; it takes {least:.2g} "
            f"({MARGIN:g} tolerances) to tell a sync from none. Lower rollout.vllm.parity_tolerance"
        )

    def check_each(self, learner_scores: Scores, engine: Engines, what: str) -> ProbeResult:
        """Check every engine of ``engine``; returns the worst result."""
        results = [
            self.check(learner_scores, scores, f"{name} ({what})")
            for name, scores in engine.score_each(self.sequences).items()
        ]
        return max(results, key=lambda result: result.mean_abs)
