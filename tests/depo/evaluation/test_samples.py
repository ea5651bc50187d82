"""What has been judged is on disk soon, and signs of life are shown where stdout is no terminal."""

from __future__ import annotations

import pytest

from depo.evaluation import samples
from depo.evaluation.samples import EvalProgress, SampleWriter


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


@pytest.mark.parametrize("waiting", [0.0, 1e9])
def test_what_has_ended_does_not_wait_for_the_next_sample_to_end(monkeypatch, waiting):
    """Stands in for the verifier and the store, which have nothing to do with when they are asked."""
    monkeypatch.setattr(samples, "FLUSH_SECONDS", waiting)
    written: list[str] = []

    class Store:
        def write(self, rows):
            written.extend(rows)

    class Progress:
        tokens = 0

        def advance(self, samples):
            pass

        def decoded(self, tokens):
            self.tokens += tokens

    progress = Progress()
    writer = SampleWriter(list, Store(), progress)
    writer.waiting = ["ended"]
    writer.heartbeat(64)
    assert written == (["ended"] if waiting == 0.0 else [])
    assert progress.tokens == 64
    writer.flush()
    assert written == ["ended"]
