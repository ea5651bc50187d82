"""Pretrained encoder, residual trunk, heads (arXiv 2602.06375), and the tokens that go in.

B: prompts, T: tokens, D: width of the backbone, E: of the embedding (D, or 3·D when pooled from several
layers), W: n-gram buckets,
U: those of a batch. The three outputs of a prompt: logit of the pass rate, logit
of the policy's exp(mean token log-probability), log concentration of the belief (used by the beta-binomial
likelihood only).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from depo.estimators.encoder_options import EncoderOptions

RATE, LIKELIHOOD, LOG_CONCENTRATION = 0, 1, 2
TRUNK_DROPOUT = 0.1  # as BERT's own
WORD_BITS = 18
LAYER = re.compile(r"\blayers?\.(\d+)\.")


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(TRUNK_DROPOUT),
            nn.Linear(width, width),
        )

    def forward(self, x_BD: torch.Tensor) -> torch.Tensor:
        return x_BD + self.inner(x_BD)


class Words(nn.Module):
    """A linear function of hashed n-grams: (B, 3), added to the outputs of the heads.

    A prompt's buckets weigh 1/√F each. Gradients are sparse, for AdaGrad (Duchi et al. 2011), under which
    rare words learn fast.
    """

    squares: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**WORD_BITS, 2))  # (W, 2): rate, log concentration
        self.register_buffer("squares", torch.zeros(2**WORD_BITS, 2))  # sums of squared gradients

    def forward(self, buckets: torch.Tensor, counts_B: torch.Tensor) -> torch.Tensor:
        """``buckets``: those of all prompts, one after the other; ``counts_B``: how many each has."""
        starts_B = counts_B.cumsum(0) - counts_B
        share = counts_B.float().rsqrt().repeat_interleave(counts_B)
        sums_B2 = nn.functional.embedding_bag(
            buckets, self.weight, starts_B, mode="sum", sparse=True, per_sample_weights=share
        )
        rate_B, concentration_B = sums_B2.unbind(1)
        return torch.stack([rate_B, torch.zeros_like(rate_B), concentration_B], dim=1)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step of AdaGrad on the buckets that have a gradient."""
        if self.weight.grad is None:
            return
        gradient = self.weight.grad.coalesce()
        touched_U, gradient_U2 = gradient.indices()[0], gradient.values()
        self.squares.index_add_(0, touched_U, gradient_U2**2)
        scale_U2 = self.squares[touched_U].sqrt().clamp(min=1e-12)  # opposite pulls may cancel to nothing
        self.weight.index_add_(0, touched_U, gradient_U2 / scale_U2, alpha=-rate)


class DifficultyNetwork(nn.Module):
    """``embed`` is the backbone, mean-pooled over real tokens; ``judge`` trunk and heads; ``words`` a
    residual on the heads, or None."""

    def __init__(self, backbone: Any, width: int, options: EncoderOptions) -> None:
        super().__init__()
        self.backbone = backbone
        depth = backbone.config.num_hidden_layers
        spread = sorted({math.ceil(depth / 3), math.ceil(2 * depth / 3), depth})
        self.layers = spread if options.pooling == "spread" else [depth]
        self.embedding_width = width * len(self.layers)
        self.entry = (
            nn.Sequential(nn.LayerNorm(self.embedding_width), nn.Linear(self.embedding_width, width))
            if len(self.layers) > 1
            else nn.Identity()
        )
        blocks = options.blocks
        self.trunk = nn.Sequential(*[ResidualBlock(width) for _ in range(blocks)], nn.LayerNorm(width))
        self.heads = nn.Linear(width, 3)
        # Near zero at first: pass rates of 1/2 for everyone, which the ranking has not to unlearn.
        nn.init.normal_(self.heads.weight, std=0.02)
        nn.init.zeros_(self.heads.bias)
        self.words = Words() if options.words else None

    def embed(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        """(B, E)."""
        output = self.backbone(
            input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=len(self.layers) > 1
        )
        if len(self.layers) > 1:
            hidden_BTE = torch.cat([output.hidden_states[layer].float() for layer in self.layers], dim=2)
        else:
            hidden_BTE = output.last_hidden_state.float()
        weight_BT1 = mask_BT[:, :, None].float()
        return (hidden_BTE * weight_BT1).sum(1) / weight_BT1.sum(1)

    def judge(self, embedding_BE: torch.Tensor, words_B3: torch.Tensor | None = None) -> torch.Tensor:
        """(B, 3), see RATE, LIKELIHOOD and LOG_CONCENTRATION; the last within ±5."""
        outputs_B3 = self.heads(self.trunk(self.entry(embedding_BE))).float()
        if words_B3 is not None:
            outputs_B3 = outputs_B3 + words_B3
        rate_B, likelihood_B, concentration_B = outputs_B3.unbind(1)
        # Smoothly bounded, so that a few lucky groups cannot send it off to infinity.
        return torch.stack([rate_B, likelihood_B, 5 * torch.tanh(concentration_B / 5)], dim=1)


def build_network(options: EncoderOptions) -> DifficultyNetwork:
    """The pretrained backbone in float32 with new trunk and heads, drawn from ``options.seed``.

    Raises ValueError when the model cannot be loaded or reads fewer tokens than ``max_length``.
    """
    from transformers import AutoModel

    try:
        with without_progress_bar():
            backbone = AutoModel.from_pretrained(options.model, dtype=torch.float32)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"encoder: model {options.model} cannot be loaded: {first}") from error
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions is not None and options.max_length > positions:
        raise ValueError(
            f"encoder: max_length must be at most {positions} with {options.model}, "
            f"found {options.max_length}"
        )
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # BERT's extra layer on [CLS], which mean pooling does not use
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(options.seed)
        network = DifficultyNetwork(backbone, backbone.config.hidden_size, options)
    if options.frozen:
        network.backbone.requires_grad_(False)
    elif options.trained_layers:
        freeze_below(backbone, backbone.config.num_hidden_layers - options.trained_layers)
    return network


def freeze_below(backbone: nn.Module, lowest: int) -> None:
    """Train the layers from number ``lowest`` up only, counted from 0; embeddings belong below.

    Raises ValueError when the backbone's parameters do not say which layer they are of.
    """
    for name, weight in backbone.named_parameters():
        layer = LAYER.search(name)
        weight.requires_grad_(layer is not None and int(layer[1]) >= lowest)
    if not any(weight.requires_grad for weight in backbone.parameters()):
        raise ValueError("encoder: trained_layers: this model's layers cannot be told apart; use 0")


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """transformers loads quietly inside; its setting is put back after."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def parameter_groups(network: DifficultyNetwork, options: EncoderOptions) -> list[dict[str, Any]]:
    """AdamW's groups: trunk and heads at ``learning_rate``, the backbone at ``backbone_rate`` of that. Words
    are AdaGrad's."""
    new = [*network.entry.parameters(), *network.trunk.parameters(), *network.heads.parameters()]
    groups: list[dict[str, Any]] = [{"params": new, "lr": options.learning_rate}]
    if not options.frozen:
        backbone = [weight for weight in network.backbone.parameters() if weight.requires_grad]
        groups.append({"params": backbone, "lr": options.learning_rate * options.backbone_rate})
    return groups


class Tokenizer:
    """Text to token ids of at most ``max_length``, special tokens included."""

    def __init__(self, options: EncoderOptions) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        except (OSError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise ValueError(f"encoder: tokenizer of {options.model} cannot be loaded: {first}") from error
        self.first, self.last = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        self.pad = self.tokenizer.pad_token_id
        if self.first is None or self.last is None or self.pad is None:
            raise ValueError(f"encoder: tokenizer of {options.model} lacks a cls, sep or pad token")
        self.room = options.max_length - 2
        self.truncation = options.truncation

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """One list a text. Half an emoji (a lone surrogate) is read as "?"."""
        if not texts:
            return []
        clean = [text.encode("utf-8", errors="replace").decode("utf-8") for text in texts]
        encoded = self.tokenizer(
            clean, add_special_tokens=False, truncation=False, padding=False, verbose=False
        )["input_ids"]
        return [[self.first, *self._cut(ids), self.last] for ids in encoded]

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.room:
            return ids
        head = self.room if self.truncation == "right" else (self.room + 1) // 2
        return ids[:head] + ids[len(ids) - (self.room - head) :] if head < self.room else ids[:head]

    def padded(self, ids: Sequence[list[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids and attention mask, int64 (B, length) each."""
        ids_BT = np.full((len(ids), length), self.pad, dtype=np.int64)
        mask_BT = np.zeros((len(ids), length), dtype=np.int64)
        for row, tokens in enumerate(ids):
            ids_BT[row, : len(tokens)] = tokens
            mask_BT[row, : len(tokens)] = 1
        return ids_BT, mask_BT
