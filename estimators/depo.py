"""DEPO (arXiv 2602.06375): a pretrained encoder reads the prompt and says how often the policy will solve it.

The head's mean m becomes a belief Beta(m·s, (1−m)·s), and with it ``p_informative`` a probability. The paper
has no such belief (it puts a window on m). How sure a mean is, s, is one number for all prompts
(`ConcentrationFit`): the s that makes the recent groups most likely, each predicted *before* it was seen.
With the beta-binomial likelihood the network gives an s for each prompt, and the common one corrects them
all.

DEPO's warm-up, in which every prompt is accepted, is the selector's business: its gate, or for a fixed
number of steps ``selection.warmup_steps``.

N: prompts or groups, W: groups in the window, C: values of s tried.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from depo.estimators.base import Candidate, Context, Estimates, Observation, State, joined, part
from depo.estimators.encoder_inference import Encoder
from depo.estimators.encoder_network import LOG_CONCENTRATION, RATE
from depo.estimators.encoder_options import EncoderOptions, encoder_options
from depo.estimators.encoder_training import Replay, Trainer, gathered
from depo.estimators.moments import beta_estimates

SCHEMA_VERSION = 1
CONCENTRATIONS = (0.02, 1e4)
RATE_MARGIN = 1e-4  # rates are kept this far from 0 and 1: a Beta needs both
WINDOW = 1024

# The prior on s is log-normal around the initial value, this wide (natural log): a factor of 2.7 either
# way is one standard deviation, so that some dozens of groups outweigh it.
PRIOR_LOG_SD = 1.0

GRID = np.exp(np.linspace(math.log(0.05), math.log(200.0), 84))  # steps of 10 %


def beta_binomial_log_likelihood(
    a_N: np.ndarray, b_N: np.ndarray, successes_N: np.ndarray, trials_N: np.ndarray
) -> np.ndarray:
    """log P(k of n) for p ~ Beta(a, b), without the binomial coefficient, which knows nothing of a and b.

    The ratio of Beta functions B(a+k, b+n−k)/B(a, b) as rising factorials: no cancellation for large a and b.
    Arrays broadcast; time grows with the largest n.
    """
    a_N, b_N, successes_N, trials_N = np.broadcast_arrays(a_N, b_N, successes_N, trials_N)
    total_N = np.zeros(a_N.shape)
    for i in range(int(trials_N.max(initial=0))):
        total_N += np.where(i < successes_N, np.log(a_N + i), 0.0)
        total_N += np.where(i < trials_N - successes_N, np.log(b_N + i), 0.0)
        total_N -= np.where(i < trials_N, np.log(a_N + b_N + i), 0.0)
    return total_N


class ConcentrationFit:
    """The factor ``value`` by which base concentrations (1 where the head gives none) are multiplied.

    The mode of its posterior over the last ``WINDOW`` groups; ``initial`` while there are none.
    """

    def __init__(self, initial: float) -> None:
        if not 0 < initial < math.inf:
            raise ValueError(f"concentration must be positive and finite, found {initial}")
        self.initial = initial
        self.value = initial
        self._window: deque[tuple[float, float, float, float]] = deque(maxlen=WINDOW)

    def add(
        self, mean_N: np.ndarray, base_N: np.ndarray, successes_N: np.ndarray, trials_N: np.ndarray
    ) -> None:
        """Groups that came in, with the means and base concentrations predicted for them beforehand."""
        self._window.extend(zip(mean_N, base_N, successes_N, trials_N, strict=True))
        self._refit()

    def _refit(self) -> None:
        if not self._window:
            self.value = self.initial
            return
        mean_W, base_W, successes_W, trials_W = self.window().T[:, :, None]
        s_WC = base_W * GRID
        fit_C = beta_binomial_log_likelihood(mean_W * s_WC, (1 - mean_W) * s_WC, successes_W, trials_W).sum(0)
        fit_C -= (np.log(GRID / self.initial) / PRIOR_LOG_SD) ** 2 / 2
        self.value = float(GRID[int(np.argmax(fit_C))])

    def window(self) -> np.ndarray:
        """(W, 4) float64: mean, base concentration, successes, trials."""
        return np.array(self._window, dtype=np.float64).reshape(-1, 4)

    def restore(self, window_W4: np.ndarray) -> None:
        self._window.clear()
        self._window.extend(tuple(row) for row in np.asarray(window_W4, dtype=np.float64).tolist())
        self._refit()


class EncoderHead:
    """The network as a text head: predict, fit, state."""

    def __init__(self, options: EncoderOptions) -> None:
        self.options = options
        self.encoder = Encoder(options)
        self.trainer = Trainer(self.encoder)
        self.replay = Replay(options.memory if options.replay else 0)
        self._fits = 0

    def pass_rate(self, texts: Sequence[str], keys: Sequence[str]) -> np.ndarray:
        return self.beliefs(texts, keys)[0]

    def beliefs(self, texts: Sequence[str], keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean pass rates (N,) in (0, 1), and concentrations (N,): the network's own with the beta-binomial
        likelihood, else 1."""
        if len(texts) != len(keys):
            raise ValueError(f"as many keys as texts are needed, found {len(keys)} and {len(texts)}")
        outputs_N3 = self.encoder.outputs(texts, keys)
        mean_N = 1 / (1 + np.exp(-outputs_N3[:, RATE]))
        beta_binomial = self.options.likelihood == "beta_binomial"
        return (
            np.clip(mean_N, RATE_MARGIN, 1 - RATE_MARGIN),
            np.exp(outputs_N3[:, LOG_CONCENTRATION]) if beta_binomial else np.ones(len(keys)),
        )

    def fit(self, observations: Sequence[Observation]) -> dict[str, float]:
        """``options.steps`` optimizer steps on the new groups, old ones mixed in where there is replay.

        Returns ``loss``, the mean over the steps. Raises ValueError as ``encoder_training.gathered`` does,
        before any update.
        """
        new = gathered(observations)
        if not new:
            return {}
        losses = []
        for step in range(self.options.steps):
            rng = np.random.default_rng((self.options.seed, self._fits, step))
            losses.append(self.trainer.step(new + self.replay.draw(self.options.replay, rng)))
        self.replay.add(new)
        self._fits += 1
        self.encoder.forget()
        return {"loss": sum(losses) / len(losses), "remembered": float(len(self.replay))}

    def state_dict(self) -> State:
        """Weights, their averages and the optimizers' moments by parameter name, float32, and the groups to
        replay. A frozen backbone is not part of it: ``model`` names it."""
        weights = self._trainable()
        moments = {name: self.trainer.optimizer.state.get(weight, {}) for name, weight in weights.items()}
        arrays = {f"weight.{name}": to_numpy(weight) for name, weight in weights.items()}
        for name, moment in moments.items():
            if moment:
                arrays[f"first.{name}"] = to_numpy(moment["exp_avg"])
                arrays[f"second.{name}"] = to_numpy(moment["exp_avg_sq"])
        averages = self.encoder.average.averages
        arrays.update({f"average.{name}": to_numpy(average) for name, average in averages.items()})
        words = self.encoder.network.words
        if words is not None:
            arrays["words.squares"] = to_numpy(words.squares)
        texts, arrays["replay"] = self.replay.state()
        return State(
            schema_version=SCHEMA_VERSION,
            values={
                "model": self.options.model,
                "fits": self._fits,
                "updates": self.trainer.updates,
                "steps": {name: int(moment["step"]) for name, moment in moments.items() if moment},
                "replay": texts,
            },
            arrays=arrays,
        )

    def load_state_dict(self, state: State) -> None:
        """Raises ValueError when the state is of another version or its weights are another network's."""
        state.require_version(SCHEMA_VERSION, "encoder head")
        values: Mapping[str, Any] = state.values
        weights = self._trainable()
        needed: dict[str, torch.Tensor] = {f"weight.{name}": weight for name, weight in weights.items()}
        needed |= {f"average.{name}": weight for name, weight in self.encoder.average.averages.items()}
        words = self.encoder.network.words
        if words is not None:
            needed["words.squares"] = words.squares
        for name, expected in needed.items():
            found = state.arrays.get(name)
            if found is None or found.shape != tuple(expected.shape):
                raise ValueError(
                    f"encoder head: state of model {values.get('model')} has {name} of shape "
                    f"{None if found is None else found.shape}, expected {tuple(expected.shape)}; was it "
                    "written with other settings?"
                )
        self.trainer.optimizer.state.clear()
        for name, weight in weights.items():
            with torch.no_grad():
                weight.copy_(torch.from_numpy(np.array(state.arrays[f"weight.{name}"])))
            if name in values["steps"]:
                self.trainer.optimizer.state[weight] = {
                    "step": torch.tensor(float(values["steps"][name])),
                    "exp_avg": self.encoder.tensor(np.array(state.arrays[f"first.{name}"])),
                    "exp_avg_sq": self.encoder.tensor(np.array(state.arrays[f"second.{name}"])),
                }
        for name, average in self.encoder.average.averages.items():
            average.copy_(torch.from_numpy(np.array(state.arrays[f"average.{name}"])))
        if words is not None:
            words.squares.copy_(torch.from_numpy(np.array(state.arrays["words.squares"])))
        self.replay.restore(values["replay"], state.arrays["replay"])
        self._fits, self.trainer.updates = int(values["fits"]), int(values["updates"])
        self.encoder.forget()

    def _trainable(self) -> dict[str, torch.nn.Parameter]:
        return {
            name: weight for name, weight in self.encoder.network.named_parameters() if weight.requires_grad
        }


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


class DepoEstimator:
    """``preset`` is ``paper`` or ``repaired``; further options are those of ``encoder_options``.

    Text is all it reads: a candidate's ``prior`` and ``features`` are not used.
    """

    def __init__(self, model: str, preset: str = "paper", **options: Any) -> None:
        self.options = encoder_options(preset, {"model": model, **options})
        self.head = EncoderHead(self.options)
        own = self.options.likelihood == "beta_binomial"
        self.concentration = ConcentrationFit(1.0 if own else self.options.concentration)

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
        state.require_version(SCHEMA_VERSION, "depo estimator")
        self.head.load_state_dict(part(state, "head"))
        self.concentration.restore(state.arrays["concentration"])
