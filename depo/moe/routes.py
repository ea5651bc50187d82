"""A sequence's routes as engines hand them over and learners force them: small integer arrays.

The record of one sequence is an array (n, L, K), uint8 up to 256 experts, else uint16: the experts of the n
tokens that end with the last *but one*. The last token of a sequence is never fed back, so nobody knows where
it would have gone and nothing depends on it. An engine's record of a completion of T tokens has n = T − 1;
what comes before is routed natively, and so are padding and sequences without a record.

Shapes: B sequences of a micro-batch, S its padded length, N = B·S flat positions, L routed layers, K experts
chosen for a token, T completion tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from depo.types import TrainSample


@dataclass(frozen=True, slots=True)
class ForcedRoutes:
    """``chosen_LNK`` (int64) are the experts to force where ``mask_N1`` (bool) is True."""

    chosen_LNK: Tensor
    mask_N1: Tensor


def compact_dtype(experts: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type that holds the index of each of so many experts."""
    return np.uint8 if experts <= 256 else np.uint16


def check_routes(
    routes: np.ndarray, sample: TrainSample, layers: int, top_k: int, experts: int, what: str
) -> None:
    """Raise ValueError, naming ``what``, unless ``routes`` are those of ``sample``: of all tokens that are
    fed, or of those from its first trained token on; for each the experts of so many layers."""
    fed, start = len(sample) - 1, sample.start
    if routes.shape not in ((fed - start, layers, top_k), (fed, layers, top_k)):
        raise ValueError(
            f"{what} has routes of shape {routes.shape}; its {len(sample)} tokens, of which the first "
            f"{start} are the prompt, {layers} routed layers and {top_k} experts a token ask for "
            f"{(fed - start, layers, top_k)}, or {(fed, layers, top_k)} with the prompt's"
        )
    if routes.dtype.kind != "u":
        raise ValueError(f"{what} has routes of type {routes.dtype}; expected uint8 or uint16")
    if routes.size and int(routes.max()) >= experts:
        raise ValueError(f"{what} has routes to expert {routes.max()}; the policy has {experts}, from 0")


def force(
    routes: Sequence[np.ndarray | None], lengths: Sequence[int], width: int, device: torch.device
) -> ForcedRoutes | None:
    """Records of B sequences, right-padded to ``width`` tokens each, laid out on their flat positions.

    ``lengths`` (B) are the sequences' real lengths. None when nothing is recorded. For sequences packed end
    to end, concatenate what this gives for each alone.
    """
    recorded = next((r for r in routes if r is not None and len(r)), None)
    if recorded is None:
        return None
    layers, top_k = recorded.shape[1:]
    chosen_BSLK = np.zeros((len(routes), width, layers, top_k), dtype=recorded.dtype)
    mask_BS = np.zeros((len(routes), width), dtype=bool)
    for b, (record, length) in enumerate(zip(routes, lengths, strict=True)):
        if record is not None:
            chosen_BSLK[b, length - 1 - len(record) : length - 1] = record
            mask_BS[b, length - 1 - len(record) : length - 1] = True
    chosen_LNK = torch.from_numpy(chosen_BSLK).to(device).long().flatten(0, 1).permute(1, 0, 2).contiguous()
    return ForcedRoutes(chosen_LNK, torch.from_numpy(mask_BS).to(device).view(-1, 1))


def unpad(chosen_LNK: np.ndarray, lengths: Sequence[int], width: int) -> list[np.ndarray]:
    """The inverse of ``force`` for whole sequences: records (length − 1, L, K), one a sequence."""
    return [
        chosen_LNK[:, b * width : b * width + length - 1].transpose(1, 0, 2).copy()
        for b, length in enumerate(lengths)
    ]
