"""The encoder estimator on a tiny random BERT, and once on a real pretrained one."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_encoder import CONTEXT, WORDS, candidates, estimator, groups, means, observed, prompts

from depo.estimators import build
from depo.estimators.depo import DepoEstimator
from depo.estimators.encoder_network import Tokenizer
from depo.estimators.encoder_options import encoder_options


def test_the_registry_builds_it_with_options_left_unset(tiny_bert):
    block = {"type": "depo", "model": tiny_bert, "preset": "repaired", "max_length": 32, "dropout": None}
    assert build(block).options.dropout == "off"


def test_importing_estimators_does_not_import_torch():
    program = "import sys, estimators, estimators.hybrid; print('torch' in sys.modules)"
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert outcome.stdout.strip() == "False"


def test_the_backbone_learns_at_a_fifth_of_the_rate(tiny_bert):
    head = estimator(tiny_bert).head
    new, backbone = head.trainer.optimizer.param_groups
    assert (new["lr"], backbone["lr"]) == (2e-4, pytest.approx(4e-5))
    assert {id(weight) for weight in backbone["params"]} == {
        id(weight) for weight in head.encoder.network.backbone.parameters()
    }
    assert sum(len(group["params"]) for group in (new, backbone)) == len(
        list(head.encoder.network.parameters())
    )
    assert {weight.dtype for weight in head.encoder.network.parameters()} == {torch.float32}


def test_the_paper_takes_one_step_a_batch_and_keeps_nothing(tiny_bert):
    subject = estimator(tiny_bert, micro_batch=4)
    subject.observe(groups(10), CONTEXT)
    subject.observe(groups(10, seed=1), CONTEXT)
    assert (subject.head.trainer.updates, len(subject.head.replay)) == (2, 0)
    repaired = estimator(tiny_bert, "repaired", steps=3)
    repaired.observe(groups(10), CONTEXT)
    assert (repaired.head.trainer.updates, len(repaired.head.replay)) == (3, 10)


@pytest.mark.parametrize(("preset", "rounds"), [("paper", 40), ("repaired", 20)])
def test_a_word_that_decides_is_learned_and_carries_over_to_new_prompts(tiny_bert, preset, rounds):
    subject = estimator(tiny_bert, preset, learning_rate=2e-3)
    for round_ in range(rounds):
        metrics = subject.observe(groups(32, seed=round_ + 1), CONTEXT)
    texts, hard_N = prompts(100, seed=1000)
    estimates = subject.predict(candidates(*texts), CONTEXT)
    assert estimates.mean[hard_N].max() < estimates.mean[~hard_N].min()
    assert math.isfinite(metrics["loss"])
    if preset == "repaired":  # the paper's margin in probability pushes rates apart, whatever the data
        assert abs(estimates.mean[hard_N].mean() - 0.1) < 0.08
        assert abs(estimates.mean[~hard_N].mean() - 0.8) < 0.08


def test_words_alone_tell_prompts_apart_when_the_rest_stands_still(tiny_bert):
    texts, hard_N = prompts(100, seed=1000)
    for words in (False, True):
        subject = estimator(tiny_bert, "repaired", frozen=True, words=words, learning_rate=1e-9)
        for round_ in range(20):
            subject.observe(groups(32, seed=round_ + 1), CONTEXT)
        mean_N = means(subject, *texts)
        assert (mean_N[hard_N].mean() < mean_N[~hard_N].mean() - 0.2) == words


def test_a_frozen_backbone_stays_as_it_is_and_the_trunk_learns(tiny_bert):
    subject = estimator(tiny_bert, "repaired", frozen=True, learning_rate=3e-3)
    before = [weight.clone() for weight in subject.head.encoder.network.backbone.parameters()]
    for round_ in range(14):
        subject.observe(groups(32, seed=round_ + 1), CONTEXT)
    after = list(subject.head.encoder.network.backbone.parameters())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    texts, hard_N = prompts(100, seed=1000)
    mean_N = means(subject, *texts)
    assert mean_N[hard_N].mean() < mean_N[~hard_N].mean() - 0.3


def test_only_the_upper_layers_are_trained_when_asked_for(tiny_bert):
    subject = estimator(tiny_bert, "repaired", trained_layers=1)
    backbone = subject.head.encoder.network.backbone
    before = {name: weight.clone() for name, weight in backbone.named_parameters()}
    subject.observe(groups(32), CONTEXT)
    changed = {name for name, weight in backbone.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".layer.1." in name}


@pytest.mark.parametrize("preset", ["paper", "repaired"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_prediction_depends_neither_on_order_nor_on_company(tiny_bert, frozen, preset):
    def trained():
        subject = estimator(tiny_bert, preset, frozen=frozen)
        subject.observe(groups(12, seed=5), CONTEXT)
        return subject

    texts, _ = prompts(50)
    together = means(trained(), *texts)
    np.testing.assert_array_equal(means(trained(), *texts[::-1]), together[::-1])
    alone = trained()
    np.testing.assert_array_equal([means(alone, text)[0] for text in texts], together)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "paper"},
        {"preset": "paper", "dropout": "ranking_off"},
        {"preset": "repaired", "replay": 6, "micro_batch": 8},
        {"preset": "repaired", "frozen": True},
        {"preset": "repaired", "trained_layers": 1},
    ],
    ids=["paper", "ranking_off", "repaired", "frozen", "trained_layers"],
)
def test_state_round_trips_exactly_and_the_next_fit_is_the_same(tiny_bert, options):
    texts, _ = prompts(10, seed=9)
    subject = estimator(tiny_bert, **options)
    for round_ in range(2):
        subject.observe(groups(12, seed=round_), CONTEXT)
    restored = estimator(tiny_bert, **options)
    restored.load_state_dict(subject.state_dict())
    for name in ("mean", "p_informative"):
        np.testing.assert_array_equal(
            getattr(restored.predict(candidates(*texts), CONTEXT), name),
            getattr(subject.predict(candidates(*texts), CONTEXT), name),
        )
    assert restored.observe(groups(12, seed=7), CONTEXT) == subject.observe(groups(12, seed=7), CONTEXT)
    np.testing.assert_array_equal(means(restored, *texts), means(subject, *texts))
    left, right = subject.state_dict(), restored.state_dict()
    assert left.values == right.values
    for name, array in left.arrays.items():
        np.testing.assert_array_equal(array, right.arrays[name], err_msg=name)


def test_a_state_survives_json_and_safetensors(tiny_bert, tmp_path):
    import json

    from safetensors.numpy import load_file, save_file

    subject = estimator(tiny_bert, "repaired")
    subject.observe([*groups(6), observed("🙂 word1", 3, logprob=math.nan)], CONTEXT)
    state = subject.state_dict()
    values = json.loads(json.dumps(state.values, allow_nan=False))
    save_file(dict(state.arrays), tmp_path / "state.safetensors")
    restored = estimator(tiny_bert, "repaired")
    restored.load_state_dict(type(state)(1, values, load_file(tmp_path / "state.safetensors")))
    assert restored.observe(groups(6, seed=1), CONTEXT) == subject.observe(groups(6, seed=1), CONTEXT)


def test_the_same_seed_repeats_a_run_whatever_torchs_generator_does(tiny_bert):
    subjects = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        subject = estimator(tiny_bert, seed=3)
        state = torch.get_rng_state()
        subject.observe(groups(12), CONTEXT)
        assert torch.equal(torch.get_rng_state(), state)
        subjects.append(subject)
    texts, _ = prompts(10)
    np.testing.assert_array_equal(means(subjects[0], *texts), means(subjects[1], *texts))
    assert (means(estimator(tiny_bert, seed=4), *texts) != means(estimator(tiny_bert, seed=3), *texts)).all()


def test_observations_in_any_order_give_the_same_fit(tiny_bert):
    texts, _ = prompts(10, seed=9)
    one, other = estimator(tiny_bert), estimator(tiny_bert)
    one.observe(groups(20), CONTEXT)
    other.observe(groups(20)[::-1], CONTEXT)
    np.testing.assert_array_equal(means(one, *texts), means(other, *texts))


@pytest.mark.parametrize("text", ["", "🙂", "\ud83d", "한국어", "word1 " * 10_000])
def test_any_text_can_be_predicted_and_learned_from(tiny_bert, text):
    subject = estimator(tiny_bert, "repaired")
    metrics = subject.observe([observed(text, 3, logprob=math.nan), observed("sum", 8)], CONTEXT)
    assert math.isfinite(metrics["loss"])
    estimates = subject.predict(candidates(text), CONTEXT)
    assert 0 < estimates.mean[0] < 1
    assert 0 < estimates.p_informative[0] < 1


def test_no_known_logprob_at_all_trains_the_rate_alone(tiny_bert):
    subject = estimator(tiny_bert)
    assert math.isfinite(subject.observe([observed("sum", 8, logprob=math.nan)], CONTEXT)["loss"])


def test_a_long_prompt_loses_its_middle_or_its_end(tiny_bert):
    text = " ".join(WORDS[:30])

    def words_of(truncation, max_length):
        tokenizer = Tokenizer(
            encoder_options("paper", {"model": tiny_bert, "max_length": max_length, "truncation": truncation})
        )
        return tokenizer.tokenizer.decode(tokenizer.ids([text])[0]).split()

    assert words_of("right", 7) == ["[CLS]", *WORDS[:5], "[SEP]"]
    assert words_of("middle", 7) == ["[CLS]", *WORDS[:3], *WORDS[28:30], "[SEP]"]
    assert words_of("middle", 3) == ["[CLS]", "word0", "[SEP]"]
    assert words_of("middle", 32) == ["[CLS]", *WORDS[:30], "[SEP]"]


def test_beliefs_are_beta_with_the_fitted_concentration(tiny_bert):
    from depo.estimators.moments import beta_outcomes

    subject = estimator(tiny_bert, concentration=5.0)
    estimates = subject.predict(candidates("sum", "integral"), CONTEXT)
    informative, _, _ = beta_outcomes(estimates.mean * 5, (1 - estimates.mean) * 5, 8)
    np.testing.assert_allclose(estimates.p_informative, informative)
    # Groups that all end at 0 or 8 of 8, unrelated to the text: far more scatter than concentration 5.
    for seed in range(4):
        texts, _ = prompts(60, seed=seed + 50)
        subject.observe([observed(t, 8 * (i % 4 < 2)) for i, t in enumerate(texts)], CONTEXT)
    assert subject.concentration.value < 1


def test_nothing_observed_changes_nothing(tiny_bert):
    subject = estimator(tiny_bert)
    before = means(subject, "sum")
    subject.observe([], CONTEXT)
    subject.observe([observed("unscorable", 0, 0)], CONTEXT)
    np.testing.assert_array_equal(means(subject, "sum"), before)
    assert subject.predict([], CONTEXT).mean.shape == (0,)


def test_what_cannot_be_is_an_error_before_any_update(tiny_bert):
    subject = estimator(tiny_bert)
    before = means(subject, "sum")
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        subject.observe([observed("sum", 9)], CONTEXT)
    with pytest.raises(ValueError, match=r"cannot exceed 0, found 0\.7"):
        subject.observe([observed("sum", 3, logprob=0.7)], CONTEXT)
    np.testing.assert_array_equal(means(subject, "sum"), before)


def test_wrong_models_lengths_and_states_are_one_line(tiny_bert, tmp_path):
    with pytest.raises(ValueError, match="cannot be loaded") as error:
        DepoEstimator(str(tmp_path / "nothing"))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="max_length must be at most 64"):
        DepoEstimator(tiny_bert)
    with pytest.raises(ValueError, match="was it written with other settings"):
        estimator(tiny_bert, blocks=3).load_state_dict(estimator(tiny_bert).state_dict())


def test_a_real_encoder_learns_more_than_the_words_it_saw(minilm):
    """MiniLM knows language: told that sums are easy and integrals hard, it places words it was not shown."""
    subject = DepoEstimator(str(minilm), "repaired", max_length=24, learning_rate=1e-3, device="cpu")
    easy = [f"What is {a} plus {b}?" for a, b in zip(range(2, 18), range(30, 46), strict=True)]
    hard = [
        f"Evaluate the definite integral of x^{a} sin({b}x)." for a, b in zip(range(16), easy, strict=True)
    ]
    for _ in range(4):
        subject.observe([*[observed(t, 8) for t in easy], *[observed(t, 0) for t in hard]], CONTEXT)
    mean = means(subject, "Add 81 to 12.", "Differentiate cos(x) e^x twice.")
    assert mean[0] > 0.6 > 0.4 > mean[1]
    together = means(subject, *hard, *easy)
    subject.head.encoder.forget()
    some = [0, 7, 15, 31]
    np.testing.assert_array_equal([means(subject, [*hard, *easy][row])[0] for row in some], together[some])
