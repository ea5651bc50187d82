"""Presets and their explicit exceptions."""

from __future__ import annotations

import pytest

from depo.estimators.encoder_options import EncoderOptions, encoder_options


def test_the_paper_preset_has_the_published_numbers():
    options = encoder_options("paper", {"model": "m"})
    assert (options.distillation_weight, options.ranking_weight, options.ranking_margin) == (0.5, 3.0, 0.5)
    assert options.ranking_min_gap == 0.05
    assert (options.learning_rate, options.backbone_rate) == (2e-4, 1 / 5)
    assert (options.steps, options.replay, options.max_length, options.truncation) == (1, 0, 512, "right")
    assert options == EncoderOptions(model="m")


def test_the_repaired_preset_differs_in_every_named_repair_and_in_nothing_else():
    paper = encoder_options("paper", {"model": "m"}).model_dump()
    repaired = encoder_options("repaired", {"model": "m"}).model_dump()
    assert {name for name in paper if paper[name] != repaired[name]} == {
        "replay",
        "likelihood",
        "ranking_weight",
        "ranking_reduction",
        "ranking_score",
        "ranking_gap",
        "dropout",
        "truncation",
        "pooling",
        "words",
        "averaging",
    }


def test_explicit_options_win_and_none_means_not_given():
    options = encoder_options("repaired", {"model": "m", "dropout": "on", "likelihood": None})
    assert (options.dropout, options.likelihood) == ("on", "beta_binomial")


@pytest.mark.parametrize(
    ("preset", "explicit", "message"),
    [
        ("depo", {"model": "m"}, "preset must be one of paper, repaired, found 'depo'"),
        ("paper", {}, "model is missing"),
        ("paper", {"model": "m", "rank": 1}, "unknown option rank"),
        (
            "paper",
            {"model": "m", "likelihood": "poisson"},
            "likelihood: Input should be 'bce' or",
        ),
        ("paper", {"model": "m", "steps": 0}, "steps: Input should be greater than or equal to 1, found 0"),
        ("paper", {"model": "m", "learning_rate": float("nan")}, "learning_rate: Input should be"),
        (
            "paper",
            {"model": "m", "replay": 8, "memory": 0},
            "memory: Input should be greater than or equal to 1",
        ),
        ("paper", {"model": "m", "averaging": 1.0}, "averaging: Input should be less than 1"),
        ("paper", {"model": "m", "pooling": "first"}, "pooling: Input should be 'last' or 'spread'"),
        (
            "paper",
            {"model": "m", "words_rate": 0.0},
            "words_rate: Input should be greater than or equal to 0.0000",
        ),
    ],
)
def test_what_makes_no_sense_is_one_line(preset, explicit, message):
    with pytest.raises(ValueError, match=message) as error:
        encoder_options(preset, explicit)
    assert "\n" not in str(error.value)
