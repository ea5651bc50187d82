"""Keyed randomness: every draw is a function of what it is for, never of what was drawn before.

A run that is resumed, regenerated or processed in another order therefore gives the same numbers.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed64(run_seed: int, purpose: str, step: int = 0, key: str = "", index: int = 0) -> int:
    """A 63-bit non-negative seed for one draw: (run seed, purpose, step, prompt key, sample index)."""
    text = f"{run_seed}\x1f{purpose}\x1f{step}\x1f{key}\x1f{index}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(
    run_seed: int, purpose: str, step: int = 0, key: str = "", index: int = 0
) -> np.random.Generator:
    """A numpy generator (Philox) keyed like ``seed64``."""
    return np.random.Generator(np.random.Philox(seed64(run_seed, purpose, step, key, index)))


def one_thread_for_numpy() -> None:
    """Let NumPy compute on one thread in this process. The last digits of a matrix product depend on how many
    share it, and a run must not depend on the machine's cores. torch has threads of its own."""
    from threadpoolctl import ThreadpoolController

    ThreadpoolController().select(internal_api="openblas").limit(limits=1)
