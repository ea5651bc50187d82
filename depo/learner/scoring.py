"""Forward passes without gradients: log-probabilities of given samples and answers, features of prompts.

Shapes: N samples, prompts or answers; B of a micro-batch, S tokens of the longest, T trained (or predicted)
tokens, H hidden size. In a pass over answers U prompts, R answers, M tokens of all answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from depo.learner.logprobs import chunked_logprobs, decoder_states, head_logprobs, predicting, token_logprobs
from depo.learner.packing import MicroBatch, Packing, Rows, unpad_values
from depo.models.experts import keep_casts
from depo.models.precision import autocast, base_model
from depo.types import TrainSample

# Padded tokens of one forward pass: enough to fill a CPU, small beside the activations of a large model.
TOKENS_PER_PASS = 8192

Values = list[np.ndarray]
"""N float32 arrays of (T,)."""


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Context for every forward pass that trains nothing: evaluation mode, no gradients, and the same
    autocast as training, so that log-probabilities agree. A colocated engine generates inside it."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(model), keep_casts():
            yield
    finally:
        model.train(was_training)


@torch.no_grad()
def sample_logprobs(
    model: nn.Module,
    batch: Sequence[TrainSample],
    packing: Packing,
    temperature: float,
    *,
    parts: Sequence[Rows] | None = None,
    around: Callable[[MicroBatch], AbstractContextManager[None]] = lambda micro: nullcontext(),
) -> Values:
    """Log-probabilities of each sample's trained tokens, in nats.

    ``parts`` are the micro-batches, default those of ``packing`` for all of the batch; samples in none of
    them get an empty array. Each pass runs inside ``around``. The model is used in the mode it is in.
    """
    values: Values = [np.empty(0, dtype=np.float32)] * len(batch)
    for rows in packing.cut(np.arange(len(batch)), batch) if parts is None else parts:
        micro = packing.collate(rows, batch)
        with around(micro):
            logprobs_BT, _ = token_logprobs(model, micro, temperature)
        for row, row_values in zip(rows, unpad_values(logprobs_BT, micro.mask_BT), strict=True):
            values[row] = row_values
    return values


def score_sequences(
    model: nn.Module,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad_token_id: int,
    temperature: float = 1.0,
) -> Values:
    """Log-probabilities of the completion tokens of each (prompt ids, completion ids), in nats: float32 (T,).

    The model is used in the mode (training or evaluation) it is in.
    """
    packing = Packing(TOKENS_PER_PASS, 0, pad_token_id, next(model.parameters()).device)
    return sample_logprobs(model, completions(sequences), packing, temperature)


def completions(sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[TrainSample]:
    return [TrainSample.of_completion(prompt, completion) for prompt, completion in sequences]


@torch.no_grad()
def prompt_features(
    model: nn.Module, prompts: Sequence[Sequence[int]], tokens_per_batch: int, pad_token_id: int
) -> np.ndarray:
    """The prefill probe of N prompts, one prefill each: (N, F) float32, in the order of ``prompts``,
    none of which may be empty.

    F = 2 + H: mean negative log-probability of the prompt's tokens (nats; the log of its perplexity), entropy
    of the first token to come (nats), and the hidden state that predicts it (H,). A linear model on such
    states foretells success on a problem better than its text does (e.g. arXiv 2207.05221, section 5), and a
    prefill costs a small share of a group of rollouts.
    """
    for n, prompt in enumerate(prompts):
        if not len(prompt):
            raise ValueError(f"prompt {n} has no tokens")
    head = base_model(model).get_output_embeddings()
    device = head.weight.device
    # Every token after the first is predicted: they are a completion of the first.
    batch = completions([(prompt[:1], prompt[1:]) for prompt in prompts])
    packing = Packing(tokens_per_batch, 0, pad_token_id, device)
    features: Values = [np.empty(0)] * len(batch)
    for rows in packing.cut(np.arange(len(batch)), batch):
        micro = packing.collate(rows, batch)
        hidden_BSH = decoder_states(model, micro.tokens_BS)
        last_BH = hidden_BSH[torch.arange(len(rows)), micro.lengths_B - 1]
        nowhere_B = torch.zeros(len(rows), dtype=torch.long, device=device)
        _, entropy_B = head_logprobs(head, last_BH, nowhere_B, 1.0)
        logprobs_M, _ = chunked_logprobs(head, *predicting(hidden_BSH, micro), 1.0)
        zeros_BT = torch.zeros(micro.mask_BT.shape, device=device)
        logprobs_BT = zeros_BT.masked_scatter(micro.mask_BT, logprobs_M)
        surprise_B = -logprobs_BT.sum(1) / micro.mask_BT.sum(1).clamp(min=1)
        found_BF = torch.cat([torch.stack([surprise_B, entropy_B], dim=1), last_BH.float()], dim=1)
        for row, found_F in zip(rows, found_BF.cpu().numpy(), strict=True):
            features[row] = found_F
    width = 2 + head.weight.shape[1]
    return np.array(features, dtype=np.float32).reshape(len(batch), width)


Tokens = tuple[int, ...]

Prompts = dict[Tokens, list[int]]
"""Each prompt's tokens → which of the N answers are to it."""


@torch.no_grad()
def answer_logprobs(
    model: nn.Module,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    temperature: float,
    tokens_per_batch: int,
    pad_token_id: int,
) -> np.ndarray:
    """Log-probability of each whole answer, (prompt ids, answer ids), in nats: (N,) float64. Neither may be
    empty. A prompt is read once for all of its answers, which share a pass."""
    for row, (prompt, answer) in enumerate(sequences):
        if not (len(prompt) and len(answer)):
            raise ValueError(f"sequence {row} has no {'answer' if len(prompt) else 'prompt'}")
    answers = [tuple(answer) for _, answer in sequences]
    rows_of: Prompts = {}
    for row, (prompt, _) in enumerate(sequences):
        rows_of.setdefault(tuple(prompt), []).append(row)
    logprobs_N = np.empty(len(sequences))
    for part in passes(rows_of, answers, tokens_per_batch):
        rows = [row for rows in part.values() for row in rows]
        logprobs_N[rows] = one_pass(model, part, answers, temperature, pad_token_id)
    return logprobs_N


def passes(rows_of: Prompts, answers: Sequence[Tokens], budget: int) -> list[Prompts]:
    """Passes of at most ``budget`` tokens: answers × longest prompt and answer. Long prompts come first."""
    parts: list[Prompts] = []
    rows = widest = 0
    for prompt in sorted(rows_of, key=len, reverse=True):
        width = len(prompt) + max(len(answers[row]) for row in rows_of[prompt])
        more = len(rows_of[prompt])
        if not parts or (rows + more) * max(widest, width) > budget:
            parts.append({})
            rows = widest = 0
        parts[-1][prompt] = rows_of[prompt]
        rows, widest = rows + more, max(widest, width)
    return parts


def one_pass(
    model: nn.Module, rows_of: Prompts, answers: Sequence[Tokens], temperature: float, pad_token_id: int
) -> np.ndarray:
    """(R,), in the order of ``rows_of``."""
    base = base_model(model)
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    device = head.weight.device
    # Prompts are padded on the left, answers on the right: the one goes on from the other's last column.
    tokens_US, real_US = padded(list(rows_of), pad_token_id, device, left=True)
    answers_RT, real_RT = padded([answers[row] for rows in rows_of.values() for row in rows], 0, device)
    counts_U = torch.tensor([len(rows) for rows in rows_of.values()], device=device)
    prompt_R = torch.arange(len(rows_of), device=device).repeat_interleave(counts_U)
    cache = DynamicCache(config=base.config)
    hidden_RTH = decoder(
        input_ids=tokens_US,
        attention_mask=real_US.long(),
        position_ids=(real_US.cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state[prompt_R, -1:]
    if answers_RT.shape[1] > 1:
        cache.reorder_cache(prompt_R)
        fed_RT = answers_RT[:, :-1]
        mask = torch.cat([real_US[prompt_R], torch.ones_like(fed_RT, dtype=torch.bool)], dim=1)
        later_RTH = decoder(
            input_ids=fed_RT,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(-1) - 1)[:, -fed_RT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        hidden_RTH = torch.cat([hidden_RTH, later_RTH], dim=1)
    logprobs_M, _ = chunked_logprobs(head, hidden_RTH[real_RT], answers_RT[real_RT], temperature)
    zeros_RT = torch.zeros(real_RT.shape, dtype=torch.float64, device=device)
    return zeros_RT.masked_scatter(real_RT, logprobs_M.double()).sum(1).cpu().numpy()


def padded(
    rows: Sequence[Tokens], pad_token_id: int, device: torch.device, *, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Tokens as one tensor, and which of it are not padding (bool)."""
    width = max(map(len, rows))
    tokens = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    real = np.zeros(tokens.shape, dtype=bool)
    for r, row in enumerate(rows):
        place = slice(width - len(row), None) if left else slice(len(row))
        tokens[r, place], real[r, place] = row, True
    return torch.from_numpy(tokens).to(device), torch.from_numpy(real).to(device)
