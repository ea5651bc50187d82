"""DEPO (arXiv 2602.06375): a pretrained encoder reads the prompt and says how often the policy will solve it.

The head's mean m becomes a belief Beta(m·s, (1−m)·s), so that ``p_informative`` is a probability. The paper
has no such belief (it puts a window on m); its s here is one scalar for all prompts, fitted to the groups
seen so far (``concentration.py``). With the beta-binomial likelihood the network gives an s for each prompt,
and the scalar corrects them all.

DEPO's warm-up, during which every prompt is accepted, is the selector's business: its gate, or for a fixed
number of steps ``selection.warmup_steps``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from estimators.base import Candidate, Context, Estimates, Observation, State
from estimators.concentration import ConcentrationFit
from estimators.encoder_head import EncoderHead
from estimators.encoder_options import encoder_options
from estimators.encoder_replay import gathered
from estimators.moments import beta_estimates
from estimators.nested_state import joined, part

SCHEMA_VERSION = 1
CONCENTRATIONS = (0.02, 1e4)


class DepoEstimator:
    """``preset`` is ``paper`` or ``repaired``; further options are those of ``encoder_options``.

    Text is all it reads: a candidate's ``prior`` and ``features`` are not used.
    """

    def __init__(self, model: str, preset: str = "paper", **options: Any) -> None:
        self.options = encoder_options(preset, {"model": model, **options})
        self.head = EncoderHead(self.options)
        own = self.options.likelihood == "beta_binomial"
        self.concentration = ConcentrationFit(1.0 if own else self.options.concentration)

    def prepare(self, candidates: Sequence[Candidate], step: int) -> None:
        """Read these prompts now; ``predict`` finds the results until the next ``observe``, at any step.
        Changes no prediction."""
        self.head.beliefs([each.text for each in candidates], [each.key for each in candidates])

    def predict(self, candidates: Sequence[Candidate], context: Context) -> Estimates:
        mean_N, base_N = self.head.beliefs(
            [each.text for each in candidates], [each.key for each in candidates]
        )
        concentration_N = np.clip(base_N * self.concentration.value, *CONCENTRATIONS)
        return beta_estimates(mean_N * concentration_N, (1 - mean_N) * concentration_N, context.group_size)

    def observe(self, observations: Sequence[Observation], context: Context) -> dict[str, float]:
        """Fit the concentration to what was believed before, then the network to what came out.

        Raises ValueError for impossible counts or log-probabilities, before any update.
        """
        groups = gathered(observations)
        if groups:
            mean_N, base_N = self.head.beliefs([each.text for each in groups], [each.key for each in groups])
            successes_N = np.array([each.successes for each in groups], dtype=np.float64)
            trials_N = np.array([each.trials for each in groups], dtype=np.float64)
            self.concentration.add(mean_N, base_N, successes_N, trials_N)
        return {**self.head.fit(observations), "concentration": self.concentration.value}

    def state_dict(self) -> State:
        """The head's state, and the window (W, 4) that the concentration is fitted to."""
        own = State(SCHEMA_VERSION, arrays={"concentration": self.concentration.window()})
        return joined(own, {"head": self.head.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or another network's."""
        if state.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"depo estimator: state has schema_version {state.schema_version}, expected {SCHEMA_VERSION}"
            )
        self.head.load_state_dict(part(state, "head"))
        self.concentration.restore(state.arrays["concentration"])
