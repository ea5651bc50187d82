"""Dropout is for supervised training: a policy is trained as it samples. LoRA's own dropout is the exception,
because the recipe asks for it."""

from __future__ import annotations

from torch import nn

NOISE = (
    "attention_dropout",
    "dropout",
    "jitter_noise",
)  # float attributes that modules read in training mode


def silence_dropout(model: nn.Module) -> bool:
    """Set every dropout probability and router jitter to 0, LoRA's excepted; returns whether that is on.

    With it off, training mode computes the same numbers as evaluation mode.
    """
    lora_dropout = False
    for name, module in model.named_modules():
        if ".lora_dropout." in name:
            lora_dropout = lora_dropout or (isinstance(module, nn.Dropout) and module.p > 0)
            continue
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute in NOISE:
            if isinstance(getattr(module, attribute, None), float):
                setattr(module, attribute, 0.0)
    return lora_dropout
