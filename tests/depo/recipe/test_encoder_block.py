"""The recipe's encoder block and the options of the estimator are one and the same list."""

from __future__ import annotations

import dataclasses

import pytest
from pydantic import ValidationError

from depo.recipe.schema.estimator import DepoEstimator
from estimators.encoder_options import CHOICES, EncoderOptions, encoder_options


def test_every_option_is_a_key_and_every_key_an_option():
    keys = set(DepoEstimator.model_fields) - {"type", "preset"}
    assert keys == {field.name for field in dataclasses.fields(EncoderOptions)}


@pytest.mark.parametrize("preset", ["paper", "repaired"])
def test_a_block_that_names_the_model_only_is_the_preset(preset):
    block = DepoEstimator(model="m", preset=preset).model_dump(exclude={"type", "preset"})
    assert encoder_options(preset, block) == encoder_options(preset, {"model": "m"})


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_choices_are_the_same_on_both_sides(name):
    for value in CHOICES[name]:
        assert getattr(DepoEstimator.model_validate({"model": "m", name: value}), name) == value
    with pytest.raises(ValidationError):
        DepoEstimator.model_validate({"model": "m", name: "neither"})
