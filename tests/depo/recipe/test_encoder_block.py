"""The recipe's encoder block is made of the options of the estimator."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from depo.estimators.encoder_options import EncoderOptions, encoder_options
from depo.recipe.schema import DepoEstimator


@pytest.mark.parametrize("preset", ["paper", "repaired"])
def test_a_block_that_names_the_model_only_is_the_preset(preset):
    block = DepoEstimator(model="m", preset=preset).model_dump(exclude={"type", "preset"})
    assert set(block) == set(EncoderOptions.model_fields)
    assert encoder_options(preset, block) == encoder_options(preset, {"model": "m"})


@pytest.mark.parametrize(("name", "wrong"), [("pooling", "first"), ("steps", 0), ("averaging", 1.0)])
def test_a_value_that_the_estimator_refuses_is_refused_in_the_recipe(name, wrong):
    with pytest.raises(ValidationError):
        DepoEstimator.model_validate({"model": "m", name: wrong})
    assert getattr(DepoEstimator.model_validate({"model": "m", name: None}), name) is None
