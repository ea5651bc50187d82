"""What the tests of `hybrid` ask it, and what it is told."""

from __future__ import annotations

from depo.estimators.base import Candidate, Context, Observation
from depo.estimators.hybrid import HybridEstimator


def at(step, group_size=8):
    return Context(group_size=group_size, step=step)


def candidate(key, text="", **known):
    return Candidate(key=key, text=text, **known)


def seen(key, k, n=8, text="", step=1, **known):
    return Observation(key=key, text=text, successes=k, trials=n, step=step, **known)


def plain(**settings):
    return HybridEstimator(**({"text": "none"} | settings))
