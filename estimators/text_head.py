"""Text heads: a pass rate from a prompt's words, learned from the groups observed so far.

Two are built in: ``depo.EncoderHead`` (torch) and, here, ``HashedNgramHead`` (numpy only). That is logistic
regression on hashed n-grams, learned online:

- A prompt is a set of F of 2^bits buckets, each worth 1/√F; the logit is their weights' sum plus a bias.
- Each group pulls by its log-likelihood gradient per trial, p − k/n, times n/(n + s). Rollouts of one prompt
  tell about the same prompt: a second one says less about its words than another prompt would.
  s (``PRIOR_TRIALS``) is what a text prior is worth in rollouts, one to two.
- AdaGrad (Duchi et al. 2011): each weight has its own step, so rare n-grams learn fast.
- With ``replay``, older groups are drawn again with the new ones.

N: prompts, F: features of a prompt, W = 2^bits weights, H: groups remembered for replay, L: bytes of a text,
R: cached rows, E: their entries in all.
"""

from __future__ import annotations

import math
import re
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Protocol

import numpy as np

from estimators.base import Observation, State, tally

TOKEN = re.compile(r"\w+|[^\w\s]")
BYTE_RUNS = (3, 4, 5)

# Odd multipliers with well-spread bits: 2^64 divided by the golden ratio, and two of splitmix64's
# constants (Steele, Lea & Flood 2014).
SPREAD = np.uint64(0x9E3779B97F4A7C15)

MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


class TextHead(Protocol):
    def pass_rate(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        """Believed mean pass rates, float64 (N,) strictly inside (0, 1).

        ``keys`` are content hashes: equal keys mean equal texts, so that work is cached by key. Raises
        ValueError when there are not as many keys as texts.
        """
        ...

    def fit(self, observations: Sequence[Observation]) -> dict[str, float]:
        """Learn from finished groups; returns metrics to log."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def require_keys(texts: Sequence[str], keys: Sequence[str]) -> None:
    """Raises ValueError when there are not as many keys as texts."""
    if len(texts) != len(keys):
        raise ValueError(f"text head: as many keys as texts are needed, found {len(keys)} and {len(texts)}")


SCHEMA_VERSION = 1
PRIOR_TRIALS = 2.0
ROWS_AT_ONCE = 4096  # bounds the memory of a prediction
LARGEST_LOGIT = 12.0  # keeps pass rates inside (0, 1), by 6e-6


class HashedNgramHead:
    """``bits``: log2 of the number of buckets, 10 to 24. ``learning_rate``: AdaGrad's. ``l2``: pull of
    touched weights to zero. ``replay``: older groups drawn per new group and pass; ``passes``: over the new
    groups at each fit; ``memory``: groups remembered."""

    def __init__(
        self,
        bits: int = 18,
        learning_rate: float = 0.2,
        l2: float = 1e-3,
        replay: int = 2,
        passes: int = 1,
        memory: int = 8192,
        batch: int = 32,
        seed: int = 0,
    ) -> None:
        if not 10 <= bits <= 24:
            raise ValueError(f"bits must lie in 10 … 24, found {bits}")
        if not (0 < learning_rate < np.inf and 0 <= l2 < np.inf):
            raise ValueError(
                f"learning_rate must be positive and l2 not negative, found {learning_rate} and {l2}"
            )
        if min(replay, memory) < 0 or min(passes, batch) < 1:
            raise ValueError(
                "replay and memory must be at least 0, passes and batch at least 1, "
                f"found {replay}, {memory}, {passes} and {batch}"
            )
        self.bits, self.learning_rate, self.l2 = bits, learning_rate, l2
        self.replay, self.passes, self.batch, self.seed = replay, passes, batch, seed
        self._features = FeatureRows(bits)
        self._weights_W = np.zeros(2**bits)
        self._squares_W = np.zeros(2**bits)  # AdaGrad's sums of squared gradients
        self._bias = np.zeros(2)  # the bias and its sum of squares
        self._remembered: deque[tuple[np.ndarray, int, int]] = deque(maxlen=memory)  # buckets, k, n
        self._fits = 0

    def pass_rate(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        require_keys(texts, keys)
        logit_N = np.empty(len(keys))
        for start in range(0, len(keys), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            buckets, counts_N = self._features.rows(list(texts[part]), list(keys[part]))
            logit_N[part] = self._logits(buckets, counts_N)
        return sigmoid(logit_N)

    def fit(self, observations: Sequence[Observation]) -> dict[str, float]:
        """One or more AdaGrad passes over the new groups, mixed with old ones; their order does not matter.

        Returns ``nll``: mean negative log-likelihood per trial of the new groups before the update, in nats.
        Raises ValueError for impossible counts, before any update.
        """
        counts = tally(observations)
        if not counts:
            return {}
        text = {observation.key: observation.text for observation in observations}
        new = [(hashed_ngrams(text[key], self.bits), *counts[key]) for key in sorted(counts)]
        rng = np.random.default_rng((self.seed, self._fits))
        nll = self._nll(new)
        for _ in range(self.passes):
            groups = list(new)
            if self._remembered:
                drawn = rng.integers(len(self._remembered), size=self.replay * len(new))
                groups += [self._remembered[i] for i in drawn]
            order = rng.permutation(len(groups))
            for start in range(0, len(groups), self.batch):
                self._step([groups[i] for i in order[start : start + self.batch]])
        self._remembered.extend(new)
        self._fits += 1
        return {"nll": nll}

    def _step(self, groups: Sequence[tuple[np.ndarray, int, int]]) -> None:
        buckets, counts_N, k_N, n_N = columns(groups)
        weight_N = n_N / (n_N + PRIOR_TRIALS)
        pull_N = weight_N * (sigmoid(self._logits(buckets, counts_N)) - k_N / n_N)
        touched_U, where = np.unique(buckets, return_inverse=True)
        gradient_U = np.bincount(where, np.repeat(pull_N / np.sqrt(counts_N), counts_N), len(touched_U))
        gradient_U += self.l2 * self._weights_W[touched_U]
        self._squares_W[touched_U] += gradient_U**2
        # A bucket is touched only with a gradient, but opposite ones may cancel to nothing.
        scale_U = np.sqrt(np.maximum(self._squares_W[touched_U], 1e-12))
        self._weights_W[touched_U] -= self.learning_rate * gradient_U / scale_U
        bias_gradient = float(pull_N.sum())
        self._bias[1] += bias_gradient**2
        self._bias[0] -= self.learning_rate * bias_gradient / np.sqrt(max(self._bias[1], 1e-12))

    def _logits(self, buckets: np.ndarray, counts_N: np.ndarray) -> np.ndarray:
        ends_N = np.cumsum(counts_N)
        sums_N = np.add.reduceat(self._weights_W[buckets], ends_N - counts_N) if len(counts_N) else counts_N
        return self._bias[0] + sums_N / np.sqrt(counts_N)

    def _nll(self, groups: Sequence[tuple[np.ndarray, int, int]]) -> float:
        buckets, counts_N, k_N, n_N = columns(groups)
        p_N = sigmoid(self._logits(buckets, counts_N))
        return float(-(k_N * np.log(p_N) + (n_N - k_N) * np.log1p(-p_N)).sum() / n_N.sum())

    def state_dict(self) -> State:
        """Weights and their sums of squares (W,), bias (2,), and the remembered groups: all buckets one after
        the other, and (buckets, k, n) of each, (H, 3)."""
        remembered = [(len(buckets), k, n) for buckets, k, n in self._remembered]
        buckets = [buckets for buckets, _, _ in self._remembered]
        return State(
            schema_version=SCHEMA_VERSION,
            values={"bits": self.bits, "fits": self._fits},
            arrays={
                "weights": self._weights_W.copy(),
                "squares": self._squares_W.copy(),
                "bias": self._bias.copy(),
                "groups": np.array(remembered, dtype=np.int64).reshape(-1, 3),
                "buckets": np.concatenate(buckets) if buckets else np.zeros(0, dtype=np.uint32),
            },
        )

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or of another number of buckets."""
        if state.schema_version != SCHEMA_VERSION or state.values["bits"] != self.bits:
            raise ValueError(
                f"n-gram head: state has schema_version {state.schema_version} and "
                f"{state.values.get('bits')} bits, expected {SCHEMA_VERSION} and {self.bits}"
            )
        self._fits = int(str(state.values["fits"]))
        self._weights_W = np.array(state.arrays["weights"], dtype=np.float64)
        self._squares_W = np.array(state.arrays["squares"], dtype=np.float64)
        self._bias = np.array(state.arrays["bias"], dtype=np.float64)
        groups_H3 = np.asarray(state.arrays["groups"], dtype=np.int64)
        ends_H = np.cumsum(groups_H3[:, 0])
        buckets = np.array(state.arrays["buckets"], dtype=np.uint32)
        self._remembered.clear()
        for (count, k, n), end in zip(groups_H3.tolist(), ends_H.tolist(), strict=True):
            self._remembered.append((buckets[end - count : end], k, n))


def columns(
    groups: Sequence[tuple[np.ndarray, int, int]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(buckets of all, features per group (N,), successes (N,), trials (N,)) of N groups."""
    counts_N = np.array([len(buckets) for buckets, _, _ in groups], dtype=np.int64)
    k_N = np.array([k for _, k, _ in groups], dtype=np.float64)
    n_N = np.array([n for _, _, n in groups], dtype=np.float64)
    return np.concatenate([buckets for buckets, _, _ in groups]), counts_N, k_N, n_N


def sigmoid(logit_N: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(logit_N, -LARGEST_LOGIT, LARGEST_LOGIT)))


def hashed_ngrams(text: str, bits: int) -> np.ndarray:
    """Which of 2^bits buckets a text falls into: sorted, distinct, (F,) uint32; F ≥ 1, also for no text.

    Features are words and single symbols, lower-cased, one at a time and in pairs; runs of 3, 4 and 5 bytes
    of the lower-cased UTF-8 text (any script, emoji included); and the length by half powers of two. Hashes
    are CRC-32 and multiplications modulo 2^64, the same in every process and on every machine (Python's own
    ``hash`` is salted). Character n-grams are hashed with numpy: long prompts take milliseconds.
    """
    text = text.lower()
    encoded = text.encode("utf-8", errors="surrogatepass")  # half an emoji is a text as well
    words = np.array(
        [zlib.crc32(token.encode("utf-8", errors="surrogatepass")) for token in TOKEN.findall(text)],
        dtype=np.uint64,
    )
    bytes_L = np.frombuffer(encoded, dtype=np.uint8).astype(np.uint64)
    length = np.array([int(2 * math.log2(len(encoded) + 1))], dtype=np.uint64)
    hashes = [_in_space(0, length), _in_space(1, words), _in_space(2, words[:-1] * SPREAD + words[1:])]
    for run in BYTE_RUNS:
        if len(bytes_L) >= run:
            hashed = np.zeros(len(bytes_L) - run + 1, dtype=np.uint64)
            for offset in range(run):
                hashed = hashed * SPREAD + bytes_L[offset : len(bytes_L) - run + 1 + offset]
            hashes.append(_in_space(run, hashed))
    buckets = np.concatenate(hashes) >> np.uint64(64 - bits)
    return np.unique(buckets.astype(np.uint32))


def _in_space(space: int, values: np.ndarray) -> np.ndarray:
    """Values (…,) uint64 scattered over 64 bits, differently for each feature kind ``space``."""
    informative = values + SPREAD // np.uint64(space + 1)  # an offset of its own for each kind
    informative = (informative ^ (informative >> np.uint64(30))) * MIX_1
    informative = (informative ^ (informative >> np.uint64(27))) * MIX_2
    return informative ^ (informative >> np.uint64(31))


class FeatureRows:
    """The features of many prompts in one growing array, by key: R rows, E entries in all.

    Past ``limit`` entries the oldest rows are dropped at the next call, and featurised anew when asked for: a
    bound on memory between calls, never on what can be asked.
    """

    def __init__(self, bits: int, limit: int = 64_000_000) -> None:
        self.bits = bits
        self.limit = limit
        self._row: dict[str, int] = {}  # oldest first; numbers go on where rows were dropped
        self._dropped = 0
        self._entries = np.zeros(1024, dtype=np.uint32)  # (E,), with room to grow
        self._ends = [0]  # (R + 1,)

    def rows(self, texts: list[str], keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of these N prompts, one after the other, (Σ F,) uint32; how many each has, (N,) int64."""
        if self._ends[-1] > self.limit:
            self._drop_oldest()
        for text, key in zip(texts, keys, strict=True):
            if key not in self._row:
                self._add(key, hashed_ngrams(text, self.bits))
        row_N = np.fromiter((self._row[key] for key in keys), dtype=np.int64, count=len(keys))
        row_N -= self._dropped
        ends = np.array(self._ends, dtype=np.int64)
        starts_N, counts_N = ends[row_N], ends[row_N + 1] - ends[row_N]
        # Position of each entry: its row's start, plus how far into the row it is.
        before_N = np.cumsum(counts_N) - counts_N
        positions = np.repeat(starts_N - before_N, counts_N) + np.arange(int(counts_N.sum()))
        return self._entries[positions], counts_N

    def _add(self, key: str, buckets_F: np.ndarray) -> None:
        start, end = self._ends[-1], self._ends[-1] + len(buckets_F)
        if end > len(self._entries):
            grown = np.zeros(2 * end, dtype=np.uint32)
            grown[:start] = self._entries[:start]
            self._entries = grown
        self._entries[start:end] = buckets_F
        self._row[key] = self._dropped + len(self._ends) - 1
        self._ends.append(end)

    def _drop_oldest(self) -> None:
        """As few of the oldest rows as leave at most ``limit`` entries."""
        rows = bisect_left(self._ends, self._ends[-1] - self.limit)
        start, end = self._ends[rows], self._ends[-1]
        self._entries[: end - start] = self._entries[start:end]
        self._ends = [until - start for until in self._ends[rows:]]
        for key in list(islice(self._row, rows)):
            del self._row[key]
        self._dropped += rows
