"""Attention among the tokens of a packed row, in which each token is computed once.

A row holds many sequences, one behind the other, and a prompt that several of them share only once. All other
layers work on each token alone. Attention takes queries, keys and values of the row apart into whole
sequences, each with its own copy of its prompt's; they attend as they would alone; and each token gets back
what came out at its first place:

    row         p p a a b b b          a prompt, completion a, completion b
    sequences   p p a a · | p p b b b  in blocks of about the same length, · is padding

So there is no mask whose size is the square of the row's, and the kernels for plain causal attention do the
work. On a GPU in half precision torch's own varlen flash attention takes the sequences without padding.

Shapes: N tokens of the row, M places in its sequences, B sequences, S places of each in a block, H heads, D
size of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "depo_packed"
LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequences of a row: token ``token_M`` of the row stands at each place, and token n first at
    ``place_N``. The places are ``blocks`` of (B, S), one behind the other. With ``ends`` (B + 1, int32) they
    are sequences without padding instead, from each end to the next, the longest of ``longest`` places."""

    token_M: Tensor
    place_N: Tensor
    blocks: tuple[tuple[int, int], ...]
    ends: Tensor | None = None
    longest: int = 0


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    sequences: Sequences | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """(1, N, H, D) for a row (1, H, N, D) with its ``sequences``; transformers' sdpa without them. The
    signature is transformers', which hands ``sequences`` down from the model's forward pass."""
    if sequences is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)
    query, key, value = (rows(one[0].transpose(0, 1), sequences.token_M) for one in (query, key, value))
    if sequences.ends is not None:
        found_MHD = varlen(query, key, value, sequences, scaling, sliding_window)
    else:
        found, end = [], 0
        for count, length in sequences.blocks:
            block = slice(end, end := end + count * length)
            heads = [one[block].unflatten(0, (count, length)).transpose(1, 2) for one in (query, key, value)]
            mask = window_mask(length, sliding_window, query.device)
            found_BSHD, _ = sdpa_attention_forward(
                module, *heads, mask, scaling=scaling, is_causal=True, **settings
            )
            found.append(found_BSHD.flatten(0, 1))
        found_MHD = torch.cat(found)
    return rows(found_MHD, sequences.place_N).unsqueeze(0), None


def rows(values: Tensor, index: Tensor) -> Tensor:
    """``values[index]``, whose gradient an embedding's backward pass adds up: faster than indexing's."""
    return nn.functional.embedding(index, values.flatten(1)).unflatten(1, values.shape[1:])


def window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Who sees whom (S, S), bool, where attention reaches back only so far; None where that is to the first
    token."""
    if window is None or window >= length:
        return None
    return torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(1 - window)


def varlen(
    query: Tensor, key: Tensor, value: Tensor, sequences: Sequences, scaling: float | None, window: int | None
) -> Tensor:
    """(M, H, D), by flash attention on sequences of any lengths. autocast does not know this kernel."""
    kind = query.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
    ends, longest = sequences.ends, sequences.longest
    assert ends is not None
    found_MHD = varlen_attn(
        query.to(dtype),
        key.to(dtype),
        value.to(dtype),
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found_MHD, Tensor)
    return found_MHD


def use_packed_attention(model: PreTrainedModel) -> str | None:
    """Let the model's attention take packed rows, beside what it takes anyway. Returns why it cannot."""
    found = model.config.get_text_config()
    kernel = model.config._attn_implementation
    if kernel not in ("sdpa", NAME):
        return f"attention {kernel} takes no packed sequences"
    others = set(getattr(found, "layer_types", None) or ()) - LAYERS
    if others:
        return f"{found.model_type} models have layers of {', '.join(sorted(others)).replace('_', ' ')}"
    if not model._can_set_attn_implementation():
        return f"the attention of {found.model_type} models is not transformers' common one"
    model.set_attn_implementation(NAME)
    return None


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
