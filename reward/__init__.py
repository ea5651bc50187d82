"""Verifiable rewards: a completion and a reference in, a score out.

    reward = build({"type": "math"})
    with VerifierPool({"type": "math"}, workers=2, timeout=5.0) as pool:
        scores = pool.score(samples)

A library on its own: it imports neither the trainer, nor Ray, nor torch. See docs/rewards.md.
"""

from depo.reward.base import Reward, Sample, Score, unscorable
from depo.reward.pool import VerifierPool
from depo.reward.registry import build

__all__ = ["Reward", "Sample", "Score", "VerifierPool", "build", "unscorable"]
