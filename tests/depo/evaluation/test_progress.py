"""Signs of life of an evaluation where stdout is no terminal."""

from __future__ import annotations

import pytest

from depo.evaluation.samples import EvalProgress


def test_tokens_are_told_while_no_sample_has_ended(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("depo.evaluation.samples.LINE_EVERY", 0.0)
    with EvalProgress("math", total=20, done=5, quiet=False) as progress:
        progress.decoded(1200)
        progress.decoded(300)
        progress.advance(15)
    assert capsys.readouterr().out.splitlines() == [
        "math: 5 of 20 samples, 1,200 tokens, ETA -",
        "math: 5 of 20 samples, 1,500 tokens, ETA -",
        "math: 20 of 20 samples, 1,500 tokens, ETA 0:00:00",
    ]


def test_quiet_says_nothing(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("depo.evaluation.samples.LINE_EVERY", 0.0)
    with EvalProgress("math", total=20, done=5, quiet=True) as progress:
        progress.decoded(1200)
    assert capsys.readouterr().out == ""
