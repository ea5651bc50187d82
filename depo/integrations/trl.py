"""TRL's GRPOTrainer with prompts chosen by difficulty:

    from depo.integrations.trl import DifficultySampling
    class Trainer(DifficultySampling, GRPOTrainer): ...
    trainer = Trainer(…, train_dataset=dataset, picker=Picker(dataset["prompt"], group_size=8))

How it works: the trainer's own data loader runs as before, and with it epochs, learning rate and progress
bar. When a batch is due for generation, its rows are replaced by those that the picker asks for now. The
loader fetches ahead, with several workers far ahead: a sampler that asked the picker would choose before the
latest outcomes are known; and a resume skips batches by fetching them, which would ask it again.

Rewards are seen where TRL gathers them. Process 0 decides for all. F: reward functions, N: completions of all
processes, G: completions of a prompt (``num_generations``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather

from depo.files import load_state, save_state
from depo.selection.picker import Key, Picker

if TYPE_CHECKING:
    from trl import GRPOTrainer as Trainer
else:
    Trainer = object

logger = logging.getLogger(__name__)

Verdicts = Callable[[np.ndarray], np.ndarray]
"""Rewards (N, F), NaN where a function returned None → verdicts (N,): 1 right, 0 wrong, NaN none."""

FOLDER = "picker"
"""Of a checkpoint: the picker's state."""

HOOKS = (
    *("_get_train_sampler", "_generate_and_score_completions", "_calculate_rewards"),
    *("_save_optimizer_and_scheduler", "_load_optimizer_and_scheduler"),
)

LOGGED = {
    *("accuracy", "zero_variance_share", "saved", "generated/rollouts", "cost/rollouts_per_effective_group"),
    *("selection/active", "selection/expected_yield", "selection/resting"),
    *("calibration/groups", "calibration/base_rate", "calibration/skill", "calibration/auroc"),
    *("coverage/prompts_visited", "coverage/starvation", "picker/open", "picker/lost", "picker/unasked"),
}
"""Of ``picker.metrics()``, those that go to the trainer's log."""


class DifficultySampling(Trainer):
    """Put before a trainer of TRL. Beside the trainer's own arguments it takes

    - ``picker``: over the rows of ``train_dataset``, in their order. None: one with default settings.
    - ``correct``: which reward function says whether a completion is right, by place or name; or `Verdicts`.
    - ``correct_above``: a completion is right if that function's reward is larger than this.

    Raises ValueError where these do not fit the trainer.
    """

    def __init__(
        self,
        *args: Any,
        picker: Picker | None = None,
        correct: int | str | Verdicts = 0,
        correct_above: float = 0.5,
        **options: Any,
    ) -> None:
        behind = super()
        missing = [name for name in HOOKS if not hasattr(behind, name)]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: no {', '.join(missing)} in the trainer behind DifficultySampling, "
                "which knows TRL 1.16's GRPOTrainer and RLOOTrainer"
            )
        super().__init__(*args, **options)
        if not hasattr(self.train_dataset, "__len__"):
            raise ValueError("train_dataset: a picker chooses among rows, and a streamed data set has none")
        if picker is None:
            texts = [prompt_text(prompt) for prompt in self.train_dataset["prompt"]]
            picker = Picker(texts, group_size=self.num_generations, seed=self.args.seed)
        if picker.group_size != self.num_generations:
            raise ValueError(
                f"picker: group_size {picker.group_size}, but num_generations is {self.num_generations}"
            )
        if len(picker) != len(self.train_dataset):
            raise ValueError(
                f"picker: {len(picker)} prompts, but train_dataset has {len(self.train_dataset)} rows; give "
                "the picker all of them, in their order"
            )
        per_generation = self.args.generation_batch_size // self.num_generations
        if per_generation > len(picker):
            raise ValueError(
                f"train_dataset: {len(picker)} rows, but a generation batch has {per_generation} prompts"
            )
        self.picker = picker
        self.verdicts = (
            correct if callable(correct) else above(self.reward_func_names, correct, correct_above)
        )
        self._picked: list[Key] = []  # whose rewards are due; process 0 only

    # ---------------------------------------------------------------- which prompts

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        # What the loader reads: without the columns that are not used.
        self._rows = self.train_dataset if dataset is None else dataset
        return super()._get_train_sampler(dataset)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        chosen = self._chosen(len(inputs)) if self.model.training else inputs
        return super()._generate_and_score_completions(chosen)

    def _chosen(self, n: int) -> list[dict[str, Any]]:
        """This process's n rows of the batch; in the whole batch, every picked row comes G times in a row."""
        if self.accelerator.is_main_process:
            self._picked = self.picker.pick(n * self.accelerator.num_processes // self.num_generations)
        rows = broadcast_object_list([[self.picker.row(key) for key in self._picked]])[0]
        first = n * self.accelerator.process_index
        return [self._rows[rows[place // self.num_generations]] for place in range(first, first + n)]

    # ---------------------------------------------------------------- what came of them

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Any:
        rewards_NF = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        if self.model.training:
            lengths = torch.tensor([len(ids) for ids in completion_ids_list], device=rewards_NF.device)
            tokens_N = gather(lengths).cpu().numpy()
            verdicts_N = np.asarray(self.verdicts(rewards_NF.double().cpu().numpy()), dtype=np.float64)
            told = verdicts_N[~np.isnan(verdicts_N)]
            if verdicts_N.shape != tokens_N.shape or not np.isin(told, (0, 1)).all():
                raise ValueError(
                    f"correct: expected {len(tokens_N)} verdicts 1, 0 or NaN, found shape {verdicts_N.shape} "
                    f"with {', '.join(map(str, np.unique(told)[:5]))}"
                )
            for i, key in enumerate(self._picked):
                group = slice(i * self.num_generations, (i + 1) * self.num_generations)
                judged = verdicts_N[group][~np.isnan(verdicts_N[group])]
                self.picker.report(
                    key,
                    correct=int(judged.sum()),
                    total=len(judged),
                    tokens=int(tokens_N[group].sum()),
                    unscorable=self.num_generations - len(judged),
                )
            self._picked = []
        return rewards_NF

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self.accelerator.is_main_process:
            logs.update({name: value for name, value in self.picker.metrics().items() if name in LOGGED})
        super().log(logs, start_time)

    # ---------------------------------------------------------------- checkpoints

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.accelerator.is_main_process:
            save_state(Path(output_dir) / FOLDER, self.picker.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.accelerator.is_main_process:
            if (Path(checkpoint) / FOLDER).is_dir():
                self.picker.load_state_dict(load_state(Path(checkpoint) / FOLDER))
            else:
                logger.warning(
                    "%s holds no picker: it was written without one, and this one begins anew", checkpoint
                )


def above(names: Sequence[str], which: int | str, least: float) -> Verdicts:
    """Right where reward function ``which`` gives more than ``least``; no verdict where it gives None."""
    if isinstance(which, str) and which not in names:
        raise ValueError(f"correct: no reward function is called {which!r}; there are {', '.join(names)}")
    place = names.index(which) if isinstance(which, str) else which
    if not -len(names) <= place < len(names):
        raise ValueError(f"correct: no reward function has place {place}; there are {len(names)}")
    return lambda rewards_NF: np.where(
        np.isnan(rewards_NF[:, place]), np.nan, (rewards_NF[:, place] > least).astype(np.float64)
    )


def prompt_text(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What an estimator reads: a prompt as it is, or the texts of a conversation's messages, a line each."""
    if isinstance(prompt, str):
        return prompt
    parts = [message["content"] for message in prompt]
    flat = [
        piece
        for part in parts
        for piece in ([part] if isinstance(part, str) else [one.get("text", "") for one in part or ()])
    ]
    return "\n".join(piece for piece in flat if piece)
