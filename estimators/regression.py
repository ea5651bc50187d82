"""What to expect of a prompt by what is known of it, learned online: one ridge regression.

It has two targets: the pass rate k / n of a group, and its spread 4 k (n − k) / (n (n − 1)), on average
4 p (1 − p). Half-solved prompts and a mixture of easy and hard ones may share a mean, but not a spread.

Its columns come in three blocks, each of which has the same say to begin with (a prior variance of 1 in all):

- text: hashed n-grams, folded into ``TEXT`` columns with random signs (Weinberger et al., ICML 2009), a text
  having the length 1;
- told: a pass rate recorded elsewhere and whether there is one, and the rate that an encoder reads off the
  text; each scaled by its own running moments;
- features: the prefill probe (perplexity, entropy, hidden state), scaled in the same way.

Everything is kept as weighted sums over past groups, which fade with ``memory``: there is no learning rate
and no order. A group of n counts n / (n + 2): a second rollout says less about prompts like this one than
another prompt would. The weights are found by conjugate gradients from the last ones, in time K². Groups wait
until they are `FRESH` of what is known: one more in ten changes little.

Shapes: N prompts, F features, C columns, K = C + 3 (1, columns, 2 targets).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.estimators.base import Candidate, Observation, State, joined, part, recorded_rate
from depo.estimators.ngrams import NgramCache

SCHEMA_VERSION = 2
BITS, TEXT = 18, 2048
PENALTY = 2.0  # groups that say nothing, beside those seen
PROMPT_TRIALS = 2.0
ITERATIONS, PRECISION = 20, 0.01  # of the solution: at most, and the residual that is good enough
FRESH = 0.1  # share of new groups that is worth a new solution
AT_ONCE = 256  # prompts whose n-grams are looked up together: what they need stays in the cache
CONSTANT = 1e-3  # relative spread below which a column counts as constant: float32 moments leave as much


class PromptRegression:
    """``text``: ngrams, none, or encoder with ``model``. Raises ValueError for another, and for an encoder
    that is missing or not to be loaded."""

    def __init__(self, text: str, model: str | None, memory: float, seed: int) -> None:
        if not memory > 0:
            raise ValueError(f"memory must be positive, found {memory}")
        if text not in ("ngrams", "encoder", "none") or (text == "encoder") != (model is not None):
            raise ValueError(
                f"text must be ngrams, none, or encoder together with text_model; found {text!r} and "
                f"text_model {model!r}"
            )
        self.memory = memory
        self.ngrams = NgramCache(BITS) if text == "ngrams" else None
        self.encoder = None
        if model is not None:
            from depo.estimators.depo import EncoderHead  # torch and transformers
            from depo.estimators.encoder_options import encoder_options

            # Frozen: each text is read once, and on recorded pass rates fine-tuning added next to nothing
            # (benchmarks/log/estimators.md).
            options = encoder_options("repaired", {"model": model, "seed": seed, "frozen": True})
            self.encoder = EncoderHead(options)
        self.blocks = [TEXT if self.ngrams else 0, 2 + (self.encoder is not None), 0]
        self._restart(0)

    def _restart(self, features: int) -> None:
        self.blocks[2] = features
        columns = sum(self.blocks)
        self.moments_KK = np.zeros((columns + 3, columns + 3), dtype=np.float32)
        self.waiting_NK = np.zeros((0, columns + 3), dtype=np.float32)  # not in the sums yet
        self.solution_2C = np.zeros((2, columns), dtype=np.float32)  # weights of the scaled columns
        self.weights_2C, self.center_C = self.solution_2C, self.solution_2C[0]  # as they are applied

    @property
    def mean_2(self) -> np.ndarray:
        """Mean pass rate and spread so far, which an average prompt is predicted."""
        return self.moments_KK[0, -2:] / self.moments_KK[0, 0] if self.moments_KK[0, 0] else np.full(2, 0.5)

    def predict(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """Pass rate and spread, (N, 2) in [0, 1]; a prompt without features counts as one with average ones.

        Raises ValueError for a recorded pass rate outside [0, 1], and for another number of features.
        """
        dense_ND = np.column_stack([self._told(prompts), self._features(prompts, self.blocks[2])])
        text = self.blocks[0]
        deviation_ND = np.nan_to_num(dense_ND - self.center_C[text:])  # NaN where something is not known
        predicted_N2 = self.mean_2 + (deviation_ND[:, None] * self.weights_2C[:, text:]).sum(axis=2)
        if text and len(prompts):
            told = [self._by_text(prompts[i : i + AT_ONCE]) for i in range(0, len(prompts), AT_ONCE)]
            predicted_N2 += np.concatenate(told) - self.weights_2C[:, :text] @ self.center_C[:text]
        return np.clip(predicted_N2, 0.0, 1.0)

    def _by_text(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """Weights of the n-grams, summed up, (N, 2)."""
        buckets, counts_N = self._read(prompts)
        weights_2C = self.weights_2C[:, :TEXT].astype(np.float64)
        signed_2B = np.stack([weights_2C, -weights_2C], axis=-1).reshape(2, 2 * TEXT)  # as `folded` has it
        starts_N = np.cumsum(counts_N) - counts_N
        sums_2N = np.add.reduceat(signed_2B[:, buckets % (2 * TEXT)], starts_N, axis=1)
        return (sums_2N / np.sqrt(counts_N)).T

    def fit(self, groups: Sequence[Observation], successes_N: np.ndarray, trials_N: np.ndarray) -> None:
        """Learn from N finished groups. Once there are features, groups without are left out.

        Raises ValueError for features that are not finite, before anything is learned.
        """
        brought = [len(group.features) for group in groups if group.features is not None]
        if brought and not self.blocks[2]:
            self._restart(brought[0])  # what was learned without them knows nothing of them
        features_NF = self._features(groups, self.blocks[2])
        products_N = 4.0 * successes_N * (trials_N - successes_N)
        spread_N = np.minimum(products_N / np.maximum(trials_N * (trials_N - 1), 1), 1.0)
        spread_N = np.where(trials_N > 1, spread_N, self.predict(groups)[:, 1])  # one rollout shows none
        rows_NK = np.column_stack(
            [
                np.ones(len(groups)),
                self._dense_text(groups),
                self._told(groups),
                features_NF,
                successes_N / trials_N,
                spread_N,
            ]
        )
        complete_N = np.array([not self.blocks[2] or group.features is not None for group in groups])
        if not np.isfinite(rows_NK[complete_N]).all():
            raise ValueError("the features of a prompt must be finite")
        weight_N = trials_N / (trials_N + PROMPT_TRIALS)
        rows_NK = (rows_NK * np.sqrt(weight_N)[:, None])[complete_N]
        self.waiting_NK = np.concatenate([self.waiting_NK, rows_NK], dtype=np.float32)
        if (self.waiting_NK[:, 0] ** 2).sum() > FRESH * self.moments_KK[0, 0]:
            self.moments_KK *= np.float32(np.exp(-len(self.waiting_NK) / self.memory))
            self.moments_KK += self.waiting_NK.T @ self.waiting_NK
            self.waiting_NK = self.waiting_NK[:0]
            self._solve()
        if self.encoder is not None:  # last: the regression learns what it says of prompts not yet learned
            self.encoder.fit(groups)

    def _solve(self) -> None:
        """(correlation + penalty / rows) · solution = correlation with the target, by conjugate gradients."""
        rows = float(self.moments_KK[0, 0])
        center_C, products_CC = self.moments_KK[0, 1:-2] / rows, self.moments_KK[1:-2, 1:-2]
        scale_C = self._scale(np.diag(products_CC) / rows, center_C)

        def applied(vector_C: np.ndarray) -> np.ndarray:
            scaled_C = scale_C * vector_C
            covariance_C = products_CC @ scaled_C / rows - center_C * (center_C @ scaled_C)
            return scale_C * covariance_C + PENALTY / rows * vector_C

        for target, found_C in enumerate(self.solution_2C):
            with_target_C = self.moments_KK[1:-2, target - 2] / rows - center_C * self.mean_2[target]
            residual_C = scale_C * with_target_C - applied(found_C)
            direction_C, left = residual_C, float(residual_C @ residual_C)
            enough = PRECISION**2 * float(((scale_C * with_target_C) ** 2).sum())
            for _ in range(ITERATIONS):
                if left <= enough:
                    break
                image_C = applied(direction_C)
                step = left / float(direction_C @ image_C)
                found_C, residual_C = found_C + step * direction_C, residual_C - step * image_C
                before, left = left, float(residual_C @ residual_C)
                direction_C = residual_C + left / before * direction_C
            self.solution_2C[target] = found_C
        self.weights_2C, self.center_C = scale_C * self.solution_2C, center_C

    def _scale(self, square_C: np.ndarray, center_C: np.ndarray) -> np.ndarray:
        """What columns are multiplied by: text as it is, the others to a variance of 1 / width of the block;
        0 for one that is constant so far."""
        scale_C = np.ones(len(center_C), dtype=np.float32)
        start = self.blocks[0]
        for width in self.blocks[1:]:
            block = slice(start, start + width)
            spread = np.sqrt(np.maximum(square_C[block] - center_C[block] ** 2, 0.0))
            varies = spread > CONSTANT * np.sqrt(square_C[block])
            scale_C[block] = varies / np.where(varies, spread * np.sqrt(width), 1.0)
            start += width
        return scale_C

    # ---------------------------------------------------------------- columns

    def _read(self, prompts: Sequence[Candidate | Observation]) -> tuple[np.ndarray, np.ndarray]:
        """Buckets of all n-grams, and how many each prompt has."""
        if self.ngrams is None:
            return np.zeros(0, dtype=np.uint32), np.zeros(len(prompts), dtype=np.int64)
        return self.ngrams.rows([prompt.text for prompt in prompts], [prompt.key for prompt in prompts])

    def _dense_text(self, prompts: Sequence[Observation]) -> np.ndarray:
        """(N, TEXT), rows of about length 1; (N, 0) where n-grams are not read."""
        text = self.blocks[0]
        buckets, counts_N = self._read(prompts)
        column, sign = folded(buckets)
        place = np.repeat(np.arange(len(prompts)), counts_N) * text + column
        flat = np.bincount(place, sign / np.sqrt(np.repeat(counts_N, counts_N)), len(prompts) * text)
        return flat.reshape(len(prompts), text)

    def _told(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """(N, 2 or 3): a recorded pass rate, whether there is one, and what the encoder reads."""
        recorded = [recorded_rate(prompt) for prompt in prompts]
        columns = [
            np.array([0.5 if rate is None else rate for rate in recorded], dtype=np.float64),
            np.array([rate is not None for rate in recorded], dtype=np.float64),
        ]
        if self.encoder is not None:
            texts, keys = [prompt.text for prompt in prompts], [prompt.key for prompt in prompts]
            columns.append(self.encoder.pass_rate(texts, keys) if texts else np.zeros(0))
        return np.column_stack(columns)

    @staticmethod
    def _features(prompts: Sequence[Candidate | Observation], width: int) -> np.ndarray:
        """(N, ``width``), NaN where a prompt brings none; with ``width`` 0 nothing is learned of any yet."""
        features_NF = np.full((len(prompts), width), np.nan)
        for row, prompt in enumerate(prompts):
            if width and prompt.features is not None:
                if len(prompt.features) != width:
                    raise ValueError(
                        f"prompt {prompt.key}: expected {width} features, found {len(prompt.features)}"
                    )
                features_NF[row] = prompt.features
        return features_NF

    # ---------------------------------------------------------------- state

    def state_dict(self) -> State:
        arrays = {
            "moments": self.moments_KK.copy(),
            "waiting": self.waiting_NK.copy(),
            "solution": self.solution_2C.copy(),
        }
        own = State(SCHEMA_VERSION, {"blocks": list(self.blocks)}, arrays)
        return own if self.encoder is None else joined(own, {"encoder": self.encoder.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or belongs to another reader of texts."""
        state.require_version(SCHEMA_VERSION, "prompt regression")
        blocks = state.values["blocks"]
        if not isinstance(blocks, list) or blocks[:2] != self.blocks[:2]:
            raise ValueError(
                f"hybrid estimator: state is of a regression on {blocks} columns, expected {self.blocks}; "
                "was it written with another text?"
            )
        self._restart(int(blocks[2]))
        self.moments_KK = np.array(state.arrays["moments"], dtype=np.float32)
        self.waiting_NK = np.array(state.arrays["waiting"], dtype=np.float32)
        self.solution_2C = np.array(state.arrays["solution"], dtype=np.float32)
        if rows := float(self.moments_KK[0, 0]):
            self.center_C = self.moments_KK[0, 1:-2] / rows
            square_C = np.diag(self.moments_KK)[1:-2] / rows
            self.weights_2C = self._scale(square_C, self.center_C) * self.solution_2C
        if self.encoder is not None:
            self.encoder.load_state_dict(part(state, "encoder"))


def folded(buckets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and sign of each n-gram."""
    return (buckets >> 1) % TEXT, 1.0 - 2.0 * (buckets & 1)
