"""What is known of a prompt before its first visit, as one pass rate.

Two sources, each optional: the prompt's text (a text head's prediction) and a pass rate recorded elsewhere
(``Candidate.prior``: another model, an older run). A ridge regression on first visits weighs them against
each other. It always sees a text head's prediction from *before* that head learned the outcome: so it learns
what the text is worth on prompts not seen yet, and an overfitted head gets little weight.

Shapes: N prompts, C = 3 columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from estimators.base import Candidate, Observation, State, joined, part
from estimators.online_ridge import OnlineRidge
from estimators.text_head import HashedNgramHead, TextHead

SCHEMA_VERSION = 2


RIDGE_PENALTY = 20.0  # rows of an average prompt


class PromptPrior:
    """``head`` reads texts; None: texts are not read."""

    def __init__(self, head: TextHead | None, memory: float) -> None:
        self.head = head
        self.regression = OnlineRidge(RIDGE_PENALTY, memory)

    @property
    def mean(self) -> float:
        """Pass rate of an average prompt at its first visit."""
        return self.regression.mean

    def pass_rate(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """Predicted pass rates (N,) in [0, 1].

        Raises ValueError for a recorded pass rate outside [0, 1].
        """
        if not prompts:
            return np.zeros(0)
        return self.regression.predict(self._columns(prompts))

    def fit(self, prompts: Sequence[Observation], successes_N: np.ndarray, trials_N: np.ndarray) -> None:
        """Learn from first visits: the regression first, then the text head whose prediction it used."""
        self.regression.fit(self._columns(prompts), successes_N / trials_N)
        if self.head is not None:
            self.head.fit(prompts)

    def _columns(self, prompts: Sequence[Candidate | Observation]) -> np.ndarray:
        """(N, C): text head's pass rate, recorded pass rate, whether there is one."""
        text_N = np.full(len(prompts), 0.5)
        if self.head is not None:
            text_N = self.head.pass_rate(
                [prompt.text for prompt in prompts], [prompt.key for prompt in prompts]
            )
        for prompt in prompts:
            if prompt.prior is not None and not 0 <= prompt.prior <= 1:
                raise ValueError(f"prompt {prompt.key}: prior must lie in [0, 1], found {prompt.prior}")
        recorded_N = np.array([0.5 if prompt.prior is None else prompt.prior for prompt in prompts])
        known_N = np.array([float(prompt.prior is not None) for prompt in prompts])
        return np.column_stack([text_N, recorded_N, known_N])

    def state_dict(self) -> State:
        own = State(SCHEMA_VERSION, arrays={"moments": self.regression.moments_KK.copy()})
        return own if self.head is None else joined(own, {"text": self.head.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state belongs to another kind of text head."""
        self.regression.set_moments(np.array(state.arrays["moments"], dtype=np.float64))
        if self.head is not None:
            self.head.load_state_dict(part(state, "text"))


def text_head(kind: str, model: str | None, seed: int) -> TextHead | None:
    """``none``, ``ngrams`` (numpy only), or ``encoder``: ``model``, frozen, with all other repairs.

    Raises ValueError for another kind, and for an encoder that is missing or not to be loaded.
    """
    if kind == "none":
        return None
    if kind == "ngrams":
        return HashedNgramHead(seed=seed)
    if kind == "encoder" and model is not None:
        from estimators.encoder_head import EncoderHead  # torch and transformers
        from estimators.encoder_options import encoder_options

        # Frozen: each text is read once, and on recorded pass rates fine-tuning added next to nothing
        # (benchmarks/log/estimators.md).
        return EncoderHead(encoder_options("repaired", {"model": model, "seed": seed, "frozen": True}))
    raise ValueError(
        f"text must be ngrams, none, or encoder together with text_model; found {kind!r} and "
        f"text_model {model!r}"
    )
