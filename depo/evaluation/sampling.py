"""Draw every sample that is still missing, verify it and put it on disk, all benchmarks together.

One call to the engine for everything: a batch or an engine's queue never drains between benchmarks. Requests
are ordered by prompt length, longest first: batches are even, and what needs most memory comes at once. (The
transformers engine sorts by length once more, shortest first.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

from depo.errors import UserError
from depo.evaluation.problems import LoadedBenchmark, qualified
from depo.evaluation.samples import EvalProgress, Row, SampleStore
from depo.recipe.schema import RewardSpec
from depo.recipe.schema.suite import Suite
from depo.rng import seed64
from depo.rollout.requests import samples_of
from depo.trackers.rollouts import null_if_nan
from depo.types import Prompt, Request, Rollout
from reward import Score, VerifierPool

FLUSH_SAMPLES = 256


FLUSH_SECONDS = 10.0
"""A part is written when so many samples or seconds have gathered: the most that a kill can lose."""


class Verifiers:
    """One pool of verification workers for each distinct reward of a suite."""

    def __init__(self, benchmarks: Sequence[LoadedBenchmark], suite: Suite, stack: ExitStack) -> None:
        """Raises UserError for a reward that cannot be built."""
        self.pools: dict[str, VerifierPool] = {}
        self.name_of: dict[str, str] = {}
        for one in benchmarks:
            spec = one.reward.model_dump()
            name = self.name_of[one.name] = json.dumps(spec, sort_keys=True)
            if name not in self.pools:
                self.pools[name] = verifier(one.name, one.reward, suite, stack)

    def start(self) -> None:
        """Start the workers while the model loads."""
        for pool in self.pools.values():
            pool.start()

    def __getitem__(self, benchmark: str) -> VerifierPool:
        return self.pools[self.name_of[benchmark]]


def verifier(benchmark: str, reward: RewardSpec, suite: Suite, stack: ExitStack) -> VerifierPool:
    try:
        pool = VerifierPool(reward.model_dump(), **suite.verification.model_dump())
    except ValueError as error:
        raise UserError(f"benchmarks.{benchmark}.reward: {error}") from error
    return stack.enter_context(pool)


def missing_requests(
    benchmarks: Sequence[LoadedBenchmark], n: int, seed: int, done: Mapping[tuple[str, str], set[int]]
) -> list[Request]:
    """Requests for the samples 0 … n − 1 of each problem that are not ``done``, longest prompts first. A
    sample's seed depends on seed, benchmark, problem and index alone."""
    requests = []
    for one in benchmarks:
        for prompt in one.prompts:
            asked = qualified(one.name, prompt)
            missing = [i for i in range(n) if i not in done.get((one.name, prompt.key), ())]
            for first, last in stretches(missing):
                seeds = tuple(seed64(seed, "eval", 0, asked.key, i) for i in range(first, last + 1))
                requests.append(Request(asked, seeds, first))
    return sorted(requests, key=lambda request: -len(request.prompt.token_ids))


def stretches(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of consecutive numbers in an ascending list."""
    start = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield indices[start], indices[end - 1]
            start = end


class SampleWriter:
    """Verifies samples and makes them durable: `FLUSH_SAMPLES` at a time, or what there is after
    `FLUSH_SECONDS`."""

    def __init__(
        self,
        requests: Sequence[Request],
        max_new_tokens: int,
        verifiers: Verifiers,
        tokenizer,
        store: SampleStore,
        progress: EvalProgress,
    ) -> None:
        self.prompts = {request.prompt.key: request.prompt for request in requests}
        self.max_new_tokens = max_new_tokens
        self.verifiers, self.tokenizer, self.store = verifiers, tokenizer, store
        self.progress = progress
        self.waiting: list[Rollout] = []
        self.flushed = time.monotonic()

    def add(self, rollout: Rollout) -> None:
        self.waiting.append(rollout)
        self.flush_if_due()

    def heartbeat(self, tokens: int) -> None:
        """The engine is alive: it has decoded so many tokens more. What waits need not wait for another
        sample to end."""
        self.progress.decoded(tokens)
        self.flush_if_due()

    def flush_if_due(self) -> None:
        if len(self.waiting) >= FLUSH_SAMPLES or time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            rows = verified(self.waiting, self.prompts, self.verifiers, self.tokenizer, self.max_new_tokens)
            self.store.write(rows)
            self.progress.advance(len(rows))
            self.waiting = []
        self.flushed = time.monotonic()


def verified(
    rollouts: Sequence[Rollout],
    prompts: Mapping[str, Prompt],
    verifiers: Verifiers,
    tokenizer,
    max_new_tokens: int,
) -> list[Row]:
    """Rows for the store, verdicts included."""
    requests = [Request(prompts[rollout.key], (rollout.seed,), rollout.index) for rollout in rollouts]
    samples = [
        group[0] for group in samples_of(requests, [[one] for one in rollouts], tokenizer, max_new_tokens)
    ]
    names = [rollout.key.partition("/")[0] for rollout in rollouts]
    scores: dict[int, Score] = {}
    for pool in verifiers.pools.values():
        mine = [i for i, name in enumerate(names) if verifiers[name] is pool]
        if mine:
            scores |= dict(zip(mine, pool.score([samples[i] for i in mine]), strict=True))
    return [
        {
            "benchmark": names[i],
            "key": rollout.key.partition("/")[2],
            "sample_index": rollout.index,
            "seed": rollout.seed,
            "completion": samples[i].completion,
            "tokens": len(rollout.token_ids),
            "logprob": float(rollout.logprobs.sum(dtype="float64")),
            "finish_reason": rollout.finish_reason,
            "value": null_if_nan(scores[i].value),
            "correct": scores[i].correct,
            "unparseable": scores[i].unparseable,
            "components": list(scores[i].components.items()),
            "detail": scores[i].detail,
        }
        for i, rollout in enumerate(rollouts)
    ]
