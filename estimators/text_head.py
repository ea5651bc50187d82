"""Text heads: a pass rate from a prompt's words, learned from the groups observed so far.

Two are built in: ``HashedNgramHead`` here (numpy only) and ``encoder_head.EncoderHead`` (torch). The n-gram
head is logistic regression on hashed n-grams, learned online:

- A prompt is a set of F of 2^bits buckets, each worth 1/√F; the logit is their weights' sum plus a bias.
- Each group pulls by its log-likelihood gradient per trial, p − k/n, times n/(n + s). Rollouts of one prompt
  tell about the same prompt: a second one says less about its words than another prompt would.
  s (``PRIOR_TRIALS``) is what a text prior is worth in rollouts, one to two.
- AdaGrad (Duchi et al. 2011): each weight has its own step, so rare n-grams learn fast.
- With ``replay``, older groups are drawn again with the new ones.

N: prompts, F: features of a prompt, W = 2^bits weights, H: groups remembered for replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from estimators.base import Observation, State, tally
from estimators.ngram_features import FeatureRows, hashed_ngrams


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
