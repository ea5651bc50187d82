"""What is told of the data before a run starts: nothing is trained, no model is there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depo.cli import main
from depo.data import preview

RECIPE = """\
name: small
steps: 3
policy: {type: pretrained, model: organisation/model}
data: {train: sums.jsonl}
reward: exact
"""
ROWS = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(3) for b in range(10)]


@pytest.fixture(params=[preview.READ_WHOLE, 0], ids=["read whole", "by its header"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with 30 rows in three formats, small enough to be read or taken for large."""
    monkeypatch.setattr(preview, "READ_WHOLE", request.param)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("sums.csv").write_text("\n".join(["question,answer", *(",".join(row.values()) for row in ROWS)]))
    pq.write_table(pa.Table.from_pylist(ROWS), "sums.parquet")
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *overrides: str, dry: bool = True) -> str:
    """The one line of the refusal."""
    assert main(["train", "small.yaml", *(["--dry-run"] if dry else []), *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("dry", [True, False])
def test_rows_that_are_all_held_out_are_refused_before_anything_starts(
    directory: Path, dry: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told(capsys, "data.train=sums.parquet", "data.heldout=32", dry=dry)
    assert line == (
        "error: data.heldout: 32 of 30 prompts would be held out, which leaves none to train on; make it "
        "smaller than 32"
    )
    assert not (directory / "runs").exists()


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("key", ["data.train", "evaluation.sets.0.source"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    directory: Path, suffix: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"{{type: file, path: sums.{suffix}, columns: {{answer: gold}}}}"
    of_set = f"evaluation.sets=[{{name: a, source: {source}}}]"
    line = told(capsys, f"data.train={source}" if key == "data.train" else of_set)
    assert line == f"error: {key}.columns.answer: no column 'gold'; sums.{suffix} has question, answer"


def test_good_data_passes(directory: Path) -> None:
    for suffix in ("jsonl", "csv", "parquet"):
        assert main(["train", "small.yaml", "--dry-run", f"data.train=sums.{suffix}", "data.heldout=29"]) == 0


def test_a_hub_data_set_that_was_never_fetched_is_unknown_and_its_command_is_told(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run = ["train", "small.yaml", "--dry-run", "data.train={type: hub, id: org/Data_Set, subset: main}"]
    assert main(dry_run) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("data.train:"))
    assert "org/Data_Set (main) are unknown" in line
    assert "datasets.load_dataset('org/Data_Set', name='main', split='train')" in line
    info = directory / "cache" / "org___data_set" / "main" / "0.0.0" / "abc" / "dataset_info.json"
    info.parent.mkdir(parents=True)
    info.write_text("{}")
    assert main(dry_run) == 0
    assert "unknown, it is not in the cache" not in capsys.readouterr().out
