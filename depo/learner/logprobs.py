"""Log-probabilities of trained tokens without the logits of a whole sequence.

Shapes: B sequences, S tokens of a whole sequence, T trained tokens, M trained tokens of all B sequences
together, N tokens that a pass computes, H hidden size, V vocabulary.

Differences from ``model(...).logits``:
- the decoder runs alone; only the hidden states that predict a trained token go through ``lm_head``;
- these go through it in chunks, each recomputed in the backward pass, so that (M, V) never exists at once;
- log-softmax is float32 and scaled by the sampling temperature.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from depo.errors import UserError
from depo.learner.layout import packed_states
from depo.learner.packing import MicroBatch
from depo.models.precision import base_model
from depo.models.sharding import inside
from depo.recipe.schema.learner import CHUNK_LOGITS


def token_logprobs(
    model: nn.Module, batch: MicroBatch, temperature: float, *, chunk_logits: int = CHUNK_LOGITS
) -> tuple[Tensor, Tensor]:
    """Log-probability (B, T) of each trained token and entropy (B, T, detached) of the distribution it was
    drawn from, both in nats, float32, at the given temperature; 0 on padding."""
    return inside(model, lambda: logprobs_inside(model, batch, temperature, chunk_logits))


def logprobs_inside(
    model: nn.Module, batch: MicroBatch, temperature: float, chunk_logits: int
) -> tuple[Tensor, Tensor]:
    hidden_MH, targets_M = predicting(computed_states(model, batch), batch)
    head = base_model(model).get_output_embeddings()
    logprobs_M, entropy_M = chunked_logprobs(head, hidden_MH, targets_M, temperature, chunk_logits)
    zeros_BT = torch.zeros(batch.mask_BT.shape, dtype=torch.float32, device=logprobs_M.device)
    return zeros_BT.masked_scatter(batch.mask_BT, logprobs_M), zeros_BT.masked_scatter(
        batch.mask_BT, entropy_M
    )


def chunked_logprobs(
    head: nn.Module,
    hidden_MH: Tensor,
    targets_M: Tensor,
    temperature: float,
    chunk_logits: int = CHUNK_LOGITS,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies, (M,) each, of tokens from the hidden states that predict them."""
    chunk = max(1, chunk_logits // head.weight.shape[0])
    pieces = []
    for hidden, targets in zip(hidden_MH.split(chunk), targets_M.split(chunk), strict=True):
        if torch.is_grad_enabled() and len(targets_M) > chunk:
            # The head has no dropout, so there is no random state to keep.
            piece = checkpoint(
                head_logprobs,
                head,
                hidden,
                targets,
                temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        else:
            piece = head_logprobs(head, hidden, targets, temperature)
        pieces.append(piece)
    return torch.cat([logprobs for logprobs, _ in pieces]), torch.cat([entropy for _, entropy in pieces])


def computed_states(model: nn.Module, batch: MicroBatch) -> Tensor:
    """Final hidden states of the tokens that a pass computes, (N, H)."""
    if batch.packed is None:
        return decoder_states(model, batch.tokens_BS).flatten(0, 1)
    return packed_states(base_model(model).get_decoder(), batch.packed)


def predicting(hidden_NH: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """Hidden states (M, H) of the tokens that predict a trained token, and those trained tokens (M,)."""
    at_M = batch.predicting_M
    return hidden_NH[batch.computed_at(at_M)], batch.tokens_BS.flatten()[at_M + 1]


def decoder_states(model: nn.Module, tokens_BS: Tensor) -> Tensor:
    return base_model(model).get_decoder()(input_ids=tokens_BS, use_cache=False).last_hidden_state


def head_logprobs(
    head: nn.Module, hidden_MH: Tensor, targets_M: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return ChosenLogprobs.apply(head(hidden_MH), targets_M, temperature)


class ChosenLogprobs(torch.autograd.Function):
    """Log-probabilities of targets (M,) and entropies (M,) from logits (M, V). What autograd would do, with a
    third of the memory: three tensors of (M, V) at most, of which the probabilities stay for the backward
    pass."""

    @staticmethod
    def forward(ctx: Any, logits_MV: Tensor, targets_M: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        scaled_MV = logits_MV.float() / temperature
        normalizer_M = scaled_MV.logsumexp(-1)
        logprobs_M = scaled_MV.gather(-1, targets_M.unsqueeze(-1)).squeeze(-1) - normalizer_M
        probabilities_MV = (scaled_MV - normalizer_M.unsqueeze(-1)).exp_()
        entropy_M = normalizer_M - scaled_MV.mul_(probabilities_MV).sum(-1)  # H = log Z − E[logit]
        ctx.save_for_backward(probabilities_MV, targets_M)
        ctx.temperature, ctx.dtype = temperature, logits_MV.dtype
        ctx.mark_non_differentiable(entropy_M)
        return logprobs_M, entropy_M

    @staticmethod
    def backward(ctx: Any, gradient_M: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """That of a log-probability is 1 for the target's logit, less all probabilities."""
        probabilities_MV, targets_M = ctx.saved_tensors
        gradient_M1 = gradient_M.unsqueeze(-1) / ctx.temperature
        gradient_MV = probabilities_MV * -gradient_M1
        gradient_MV.scatter_add_(-1, targets_M.unsqueeze(-1), gradient_M1)
        return gradient_MV.to(ctx.dtype), None, None


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Raise UserError for an architecture whose logits are more than ``lm_head`` of the decoder's states
    (soft-capped or scaled logits), which the shortcut above would get wrong without a word."""
    device = base_model(model).get_input_embeddings().weight.device
    tokens_BS = torch.arange(1, 5, device=device).unsqueeze(0)

    def both_ways() -> tuple[Tensor, Tensor]:
        full_BSV = model(input_ids=tokens_BS, use_cache=False).logits.float()
        head = base_model(model).get_output_embeddings()
        return full_BSV, head(decoder_states(model, tokens_BS)).float()

    full_BSV, short_BSV = inside(model, both_ways)
    if (full_BSV - short_BSV).abs().max() > 1e-3 * full_BSV.abs().max():
        name = base_model(model).config.model_type
        raise UserError(
            f"policy.model: the logits of {name} models are not lm_head(decoder states) but scaled or capped "
            "ones, which the learner cannot do; take a model of another architecture"
        )
