"""Prompts whose words decide how hard they are, and an encoder of random weights that learns from them."""

from __future__ import annotations

import numpy as np

from depo.estimators.base import Candidate, Context, Observation
from depo.estimators.depo import DepoEstimator

CONTEXT = Context(group_size=8, step=0)
WORDS = [f"word{i}" for i in range(30)] + ["integral", "sum"]


def estimator(tiny_bert, preset="paper", **options):
    return DepoEstimator(tiny_bert, preset, **{"max_length": 32, "device": "cpu", **options})


def candidates(*texts):
    return [Candidate(key=text, text=text) for text in texts]


def observed(text, successes, trials=8, logprob=-0.5):
    return Observation(key=text, text=text, successes=successes, trials=trials, step=0, mean_logprob=logprob)


def prompts(n, seed=0):
    """n different prompts; those that say "integral" are hard."""
    rng = np.random.default_rng(seed)
    hard_N = np.arange(n) % 2 == 0
    return [
        " ".join([*rng.choice(WORDS[:30], int(rng.integers(2, 12))), "integral" if hard else "sum"])
        for hard in hard_N
    ], hard_N


def groups(n, seed=0):
    texts, hard_N = prompts(n, seed)
    rng = np.random.default_rng(seed)
    return [
        observed(text, int(rng.binomial(8, 0.1 if hard else 0.8)))
        for text, hard in zip(texts, hard_N, strict=True)
    ]


def means(subject, *texts):
    return subject.predict(candidates(*texts), CONTEXT).mean
