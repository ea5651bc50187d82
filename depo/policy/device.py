"""The device that a recipe or an option asks for."""

from __future__ import annotations

import torch

from depo.errors import UserError


def pick_device(wanted: str, key: str = "learner.device") -> torch.device:
    """``auto`` (cuda where there is one), ``cpu`` or ``cuda``; ``key`` names it where it was asked for.
    Raises UserError where there is none."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{key}: cuda is asked for, but torch finds no CUDA device; set cpu or auto")
    return torch.device(wanted)
