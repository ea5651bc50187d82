"""Fixtures of tiny policies and batches. N sequences, T completion tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from made_samples import build_batch
from tiny_models import build_learner, build_model
from transformers import PreTrainedModel

from depo.learner.learner import PolicyLearner
from depo.types import TrainSample


@pytest.fixture(scope="session")
def tiny_models() -> dict[str, PreTrainedModel]:
    return {name: build_model(name) for name in ("qwen3_moe", "qwen3_next", "llama", "llama_tied")}


@pytest.fixture
def make_model(tiny_models: dict[str, PreTrainedModel]) -> Callable[[str], PreTrainedModel]:
    """A fresh copy of a tiny model, by architecture name."""
    return lambda architecture: copy.deepcopy(tiny_models[architecture])


@pytest.fixture
def make_learner() -> Callable[..., PolicyLearner]:
    return build_learner


@pytest.fixture
def make_batch() -> Callable[..., list[TrainSample]]:
    return build_batch
