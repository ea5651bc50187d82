"""An interruption within a batch costs the samples that had not ended, and no others."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

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
        patch.setattr("depo.evaluation.samples.FLUSH_SECONDS", 0.0)
        assert main([*command, "cut"]) == 130
    kept = samples(cheap / "cut")
    assert main([*command, "cut", "--resume"]) == 0
    assert main([*command, "uncut", "transformers.batch_size=7"]) == 0
    whole = samples(cheap / "uncut")
    assert kept == {sample: what for sample, what in whole.items() if what[1] <= POSITION}
    assert 0 < len(kept) < len(whole) == 2 * PROBLEMS
    assert samples(cheap / "cut") == whole, "with another batch size too"
