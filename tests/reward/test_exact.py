from __future__ import annotations

import reward


def test_surrounding_space_does_not_matter_and_anything_else_does(sample) -> None:
    exact = reward.build({"type": "exact"})
    right, wrong, empty = exact.score([sample(" 42\n"), sample("42."), sample("  ")])
    assert (right.value, right.correct, right.unparseable) == (1.0, True, False)
    assert (wrong.value, wrong.correct, wrong.unparseable) == (0.0, False, False)
    assert (empty.value, empty.correct, empty.unparseable) == (0.0, False, True)
