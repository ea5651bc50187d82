"""DEPO's difficulty estimator (arXiv 2602.06375) as a text head: predict, fit, state.

N: prompts asked about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from estimators.base import Observation, State
from estimators.encoder_inference import Encoder
from estimators.encoder_network import LOG_CONCENTRATION, RATE
from estimators.encoder_options import EncoderOptions
from estimators.encoder_training import Replay, Trainer, gathered
from estimators.text_head import require_keys

SCHEMA_VERSION = 1


RATE_MARGIN = 1e-4  # rates are kept this far from 0 and 1: a Beta needs both


class EncoderHead:
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
        require_keys(texts, keys)
        outputs_N3 = self.encoder.outputs(texts, keys)
        mean_N = 1 / (1 + np.exp(-outputs_N3[:, RATE]))
        beta_binomial = self.options.likelihood == "beta_binomial"
        return (
            np.clip(mean_N, RATE_MARGIN, 1 - RATE_MARGIN),
            np.exp(outputs_N3[:, LOG_CONCENTRATION]) if beta_binomial else np.ones(len(keys)),
        )

    def fit(self, observations: Sequence[Observation]) -> dict[str, float]:
        """``options.steps`` optimizer steps on the new groups, old ones mixed in where there is replay.

        Returns ``loss``, the mean over the steps. Raises ValueError as ``encoder_replay.gathered`` does,
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
        if state.schema_version != SCHEMA_VERSION:
            raise ValueError(
                f"encoder head: state has schema_version {state.schema_version}, expected {SCHEMA_VERSION}"
            )
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
