"""Where the mismatch comes from that replaying completions leaves: an ablation of `routing_replay`.

depo routes prompts natively, in every learner. Here the engine's routes of the prompts are recorded too, and
forced together with those of the completions. What is left then is arithmetic, no routing at all.

Shapes: N sequences, P tokens of a prompt, T of a completion, L routed layers, K experts chosen for a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from depo.learner.learner import PolicyLearner
from depo.learner.logprobs import token_logprobs
from depo.learner.loss import k3
from depo.learner.packing import unpad_values
from depo.learner.routing import as_computed
from depo.moe.routers import find_routers
from depo.moe.routes import Recorder, force, hooked, unpad
from depo.rollout.transformers import Row, TransformersEngine
from depo.types import TrainSample

TOP = 0.01
"""Share of the tokens whose part in the mismatch KL is reported."""


class PromptRecordingEngine(TransformersEngine):
    """Keeps the routes (P, L, K) of each prompt as it was read, batch and padding included."""

    def __init__(self, *args, **settings) -> None:
        super().__init__(*args, **settings)
        self.prompt_routes: dict[tuple[int, ...], np.ndarray] = {}

    def _read_prompts(self, rows: list[Row]):
        recorder = Recorder(self.routers)
        with hooked(self.routers, observe=recorder):
            read = super()._read_prompts(rows)
        prompts = list(dict.fromkeys(row.request.prompt.token_ids for row in rows))
        width = max(len(prompt) for prompt in prompts)
        chosen_LUSK = recorder.routes().reshape(recorder.shape[0], len(prompts), width, recorder.shape[1])
        for u, prompt in enumerate(prompts):  # padded on the left
            self.prompt_routes[prompt] = chosen_LUSK[:, u, width - len(prompt) :].transpose(1, 0, 2).copy()
        return read


def whole_routes(engine: PromptRecordingEngine, batch: Sequence[TrainSample]) -> list[np.ndarray]:
    """Records (P + T − 1, L, K) of prompt and completion together."""
    return [np.concatenate([engine.prompt_routes[prompt_of(sample)], sample.routes]) for sample in batch]


def prompt_of(sample: TrainSample) -> tuple[int, ...]:
    return tuple(sample.token_ids[: sample.start].tolist())


def logprobs_under(
    learner: PolicyLearner, batch: Sequence[TrainSample], routes: Sequence[np.ndarray | None]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The learner's log-probabilities (T,) with ``routes`` forced, and its own choices (P + T − 1, L, K)."""
    routers = find_routers(learner.model)
    values: list[np.ndarray] = [np.empty(0)] * len(batch)
    chosen: list[np.ndarray] = [np.empty(0)] * len(batch)
    with learner.inference():
        for rows in learner.packing.cut(np.arange(len(batch)), batch):
            micro = learner.packing.collate(rows, batch)
            lengths = [len(batch[row]) for row in rows]
            width = micro.tokens_BS.shape[1]
            recorder = Recorder(routers)
            forced = force([routes[row] for row in rows], lengths, width, learner.device)
            with hooked(routers, *as_computed(micro, forced, recorder)):
                logprobs_BT, _ = token_logprobs(learner.model, micro, learner.temperature)
            found = unpad_values(logprobs_BT, micro.mask_BT), unpad(recorder.routes(), lengths, width)
            for row, row_values, row_chosen in zip(rows, *found, strict=True):
                values[row], chosen[row] = row_values, row_chosen
    return values, chosen


def causes(
    learner: PolicyLearner, batch: Sequence[TrainSample], engine: PromptRecordingEngine
) -> dict[str, float]:
    """What is left of the mismatch KL when prompts are replayed as well, and where it sits when they are not.

    A prompt is *routed apart* when engine and trainer send one of its tokens to different experts somewhere.
    """
    _, native = logprobs_under(learner, batch, [None] * len(batch))
    replayed, _ = logprobs_under(learner, batch, [sample.routes for sample in batch])
    whole, _ = logprobs_under(learner, batch, whole_routes(engine, batch))
    apart_N = np.array(
        [
            differ(engine.prompt_routes[prompt_of(sample)], chosen[: sample.start])
            for sample, chosen in zip(batch, native, strict=True)
        ]
    )
    lengths_N = [sample.trained for sample in batch]
    engine_logprobs = [sample.logprobs[sample.loss_mask] for sample in batch]
    apart_M = np.repeat(apart_N, lengths_N)
    kl_M, kl_whole_M = token_kl(replayed, engine_logprobs), token_kl(whole, engine_logprobs)
    largest = np.sort(kl_M)[::-1][: max(1, round(TOP * len(kl_M)))]
    return {
        "answer_tokens": float(np.mean(lengths_N)),
        "prompt_tokens": float(np.mean([sample.start for sample in batch])),
        "kl_whole_replay": float(kl_whole_M.mean()),
        "prompts_apart": float(apart_N.mean()),
        "kl_replay_of_prompts_apart": float(kl_M[apart_M].sum() / kl_M.sum()),
        "kl_replay_of_top_tokens": float(largest.sum() / kl_M.sum()),
    }


def differ(first_PLK: np.ndarray, second_PLK: np.ndarray) -> bool:
    """Whether two records send any token to different sets of experts."""
    return bool((np.sort(first_PLK, axis=-1) != np.sort(second_PLK, axis=-1)).any())


def token_kl(learner: Sequence[np.ndarray], engine: Sequence[np.ndarray]) -> np.ndarray:
    """k3 of each completion token of the batch, (M,), as the learner's ``mismatch_kl`` averages it."""
    difference_M = torch.from_numpy(np.concatenate(learner)).double()
    return k3(difference_M - torch.from_numpy(np.concatenate(engine)).double()).numpy()
