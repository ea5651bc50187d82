"""The regression against ridge regression solved directly, and what it makes of what is missing."""

from dataclasses import replace

import numpy as np
import pytest
from hybrid_questions import candidate, seen

from depo.estimators import regression
from depo.estimators.ngrams import hashed_ngrams
from depo.estimators.regression import TEXT, PromptRegression


def groups_with_features(rng, count, width=5):
    features = rng.normal(3.0, [1.0, 10.0, 0.1, 1.0, 2.0][:width], (count, width))
    rate = 1 / (1 + np.exp(-(features[:, 0] - 3.0)))
    k = rng.binomial(8, rate)
    groups = [
        seen(str(i), int(k[i]), text=f"word{i % 5} number {i}", features=features[i]) for i in range(count)
    ]
    return groups, features, k


def fit(subject, groups):
    subject.fit(groups, np.array([g.successes for g in groups]), np.array([g.trials for g in groups]))


def test_it_is_ridge_regression_with_equal_say_for_each_block(monkeypatch):
    """By `numpy.linalg.solve` in double precision, columns built by hand."""
    monkeypatch.setattr(regression, "ITERATIONS", 200)
    monkeypatch.setattr(regression, "PRECISION", 1e-6)
    rng = np.random.default_rng(0)
    groups, features, k = groups_with_features(rng, 60)
    subject = PromptRegression("ngrams", None, 1e9, 0)
    fit(subject, groups)

    text = np.zeros((60, TEXT))
    for row, group in enumerate(groups):
        buckets = hashed_ngrams(group.text, 18)
        np.add.at(text[row], (buckets >> 1) % TEXT, (1.0 - 2.0 * (buckets & 1)) / np.sqrt(len(buckets)))
    features = (features - features.mean(axis=0)) / features.std(axis=0) / np.sqrt(5)
    columns = np.column_stack([text - text.mean(axis=0), features])
    weight = 8 / (8 + 2)
    gram = weight * columns.T @ columns + regression.PENALTY * np.eye(TEXT + 5)
    targets = np.column_stack([k / 8, 4 * k * (8 - k) / (8 * 7)]).clip(0, 1)
    mean = targets.mean(axis=0)
    expected = np.clip(mean + columns @ np.linalg.solve(gram, weight * columns.T @ (targets - mean)), 0, 1)
    asked = [candidate(g.key, text=g.text, features=g.features) for g in groups]
    np.testing.assert_allclose(subject.predict(asked), expected, atol=2e-3)
    assert (expected.std(axis=0) > 0.05).all()


def test_before_any_group_every_rate_is_a_half_and_constant_columns_get_no_weight():
    subject = PromptRegression("none", None, 1000.0, 0)
    assert subject.predict([candidate("a"), candidate("b", prior=0.9)]).tolist() == [[0.5, 0.5]] * 2
    fit(subject, [seen(str(i), 2, features=np.array([7.0, float(i)])) for i in range(20)])
    assert subject.weights_2C[0, 2] == 0.0
    assert subject.predict([candidate("x", features=np.array([1e6, 3.0]))])[0, 0] == pytest.approx(0.25)


def test_a_prompt_without_features_counts_as_average_and_teaches_nothing():
    rng = np.random.default_rng(1)
    groups, _, _ = groups_with_features(rng, 200)
    subject = PromptRegression("none", None, 1e9, 0)
    fit(subject, groups[:100])
    before = subject.moments_KK.copy()
    fit(subject, [seen("bare", 8)])
    np.testing.assert_array_equal(subject.moments_KK, before)
    assert not len(subject.waiting_NK)
    assert subject.predict([candidate("bare")])[0] == pytest.approx(subject.mean_2)
    with pytest.raises(ValueError, match="expected 5 features, found 2"):
        subject.predict([candidate("odd", features=np.ones(2))])
    with pytest.raises(ValueError, match="must be finite"):
        fit(subject, [seen("bad", 1, features=np.array([np.inf, 0, 0, 0, 0]))])
    np.testing.assert_array_equal(subject.moments_KK, before)


def test_what_was_learned_without_features_gives_way_to_what_is_learned_with_them():
    rng = np.random.default_rng(2)
    subject = PromptRegression("none", None, 1e9, 0)
    fit(subject, [seen(str(i), 8) for i in range(50)])
    groups, _, k = groups_with_features(rng, 100)
    fit(subject, groups)
    assert subject.mean_2[0] == pytest.approx(k.mean() / 8, abs=1e-3)


def test_old_groups_fade():
    subject = PromptRegression("none", None, 50.0, 0)
    for _ in range(20):
        fit(subject, [seen(str(i), 0) for i in range(20)])
    for _ in range(20):
        fit(subject, [seen(str(i), 8) for i in range(20)])
    assert subject.mean_2[0] > 0.99


def test_the_state_of_another_reader_is_refused():
    state = PromptRegression("ngrams", None, 100.0, 0).state_dict()
    with pytest.raises(ValueError, match="was it written with another text"):
        PromptRegression("none", None, 100.0, 0).load_state_dict(state)
    with pytest.raises(ValueError, match="text must be"):
        PromptRegression("tea leaves", None, 100.0, 0)


def test_groups_wait_until_they_are_a_tenth_and_then_count_as_if_they_had_come_at_once():
    rng = np.random.default_rng(3)
    groups, _, _ = groups_with_features(rng, 111)
    subject, at_once = (PromptRegression("ngrams", None, 1e9, 0) for _ in range(2))
    asked = [candidate(g.key, text=g.text, features=g.features) for g in groups]
    fit(subject, groups[:100])
    before = subject.predict(asked)
    for group in groups[100:110]:
        fit(subject, [group])
        np.testing.assert_array_equal(subject.predict(asked), before)
    waited, again = subject.state_dict(), PromptRegression("ngrams", None, 1e9, 0)
    again.load_state_dict(waited)
    fit(at_once, groups)
    for resumed in (subject, again):
        fit(resumed, groups[110:])
        np.testing.assert_allclose(resumed.moments_KK, at_once.moments_KK, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(resumed.predict(asked), at_once.predict(asked), atol=0.02)
    assert np.abs(subject.predict(asked) - before).max() > 0.02


def test_a_state_of_another_version_is_refused():
    subject = PromptRegression("none", None, 1e9, 0)
    state = subject.state_dict()
    with pytest.raises(ValueError, match="prompt regression"):
        subject.load_state_dict(replace(state, schema_version=1))
