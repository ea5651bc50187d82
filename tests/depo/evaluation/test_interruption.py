"""An interruption within a batch costs the samples that had not ended, and no others."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from depo.cli import main
from depo.rollout import transformers as transformers_engine

PROBLEMS, POSITION = 30, 30


def samples(directory: Path) -> dict[tuple[str, int], tuple[str, int]]:
    """Completion and its tokens, by problem and sample index."""
    rows = [
        row for file in (directory / "samples").glob("*.parquet") for row in pq.read_table(file).to_pylist()
    ]
    found = {(row["key"], row["sample_index"]): (row["completion"], row["tokens"]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_what_had_ended_in_an_interrupted_batch_is_kept(cheap, tiny_policy, monkeypatch):
    """Ctrl-C stands in for a kill: nothing is written after it."""
    draw, drawn = transformers_engine.draw, []

    def interrupted(*arguments):
        drawn.append(None)
        if len(drawn) > POSITION:
            raise KeyboardInterrupt
        return draw(*arguments)

    command = ["eval", str(tiny_policy), "--suite", "cheap.yaml", "--quiet", "--run-dir"]
    with monkeypatch.context() as patch:
        patch.setattr(transformers_engine, "draw", interrupted)
        patch.setattr(transformers_engine, "LOOK_SECONDS", 0.0)
        patch.setattr("depo.evaluation.sampling.FLUSH_SECONDS", 0.0)
        assert main([*command, "cut"]) == 130
    kept = samples(cheap / "cut")
    assert main([*command, "cut", "--resume"]) == 0
    assert main([*command, "uncut", "transformers.batch_size=7"]) == 0
    whole = samples(cheap / "uncut")
    assert kept == {sample: what for sample, what in whole.items() if what[1] <= POSITION}
    assert 0 < len(kept) < len(whole) == 2 * PROBLEMS
    assert samples(cheap / "cut") == whole, "with another batch size too"


@pytest.mark.parametrize("waiting", [0.0, 1e9])
def test_what_has_ended_does_not_wait_for_the_next_sample_to_end(monkeypatch, waiting):
    """Stands in for the verifier and the store, which have nothing to do with when they are asked."""
    from depo.evaluation import sampling

    monkeypatch.setattr(sampling, "FLUSH_SECONDS", waiting)
    monkeypatch.setattr(sampling, "verified", lambda rollouts, *_: list(rollouts))
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
    writer = sampling.SampleWriter([], 8, None, None, Store(), progress)
    writer.waiting = ["ended"]
    writer.heartbeat(64)
    assert written == (["ended"] if waiting == 0.0 else [])
    assert progress.tokens == 64
    writer.flush()
    assert written == ["ended"]
