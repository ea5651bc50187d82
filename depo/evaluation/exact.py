"""Accuracy without sampling, where there is one exact answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from depo.learner.actor import RemoteLearner
from depo.types import Prompt


def exact_pass_rates(prompts: Sequence[Prompt], learner: RemoteLearner, tokenizer) -> np.ndarray:
    """Probability (N,) of the gold answer and the end token, by teacher forcing (temperature 1)."""
    gold = [
        [*tokenizer.encode(prompt.reference, add_special_tokens=False), tokenizer.eos_token_id]
        for prompt in prompts
    ]
    sequences = [(prompt.token_ids, answer) for prompt, answer in zip(prompts, gold, strict=True)]
    return np.array([np.exp(logprobs_T.sum(dtype=np.float64)) for logprobs_T in learner.score(sequences)])
