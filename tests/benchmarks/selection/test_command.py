"""What ``--help`` promises is what the default plan is; mistakes end before anything starts."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import main
from benchmarks.selection.arms import PRIMARY, WORLDS
from benchmarks.selection.command import SEEDS
from benchmarks.selection.plan import horizon_of


def test_help_tells_how_long_the_default_takes(capsys):
    with pytest.raises(SystemExit):
        main(["selection", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    rollouts = horizon_of(WORLDS["answers"], WORLDS["answers"].passes)
    assert f"{len(PRIMARY) * len(SEEDS)} runs of {rollouts:,} rollouts" in text
    assert f"{len(SEEDS)} warm starts" in text
    assert "less than three hours on 2 cores" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arms", "grpo,nonsense"], "--arms nonsense: unknown; expected some of grpo, dapo"),
        (["--arms", ","], "expected one at least, found nothing"),
        (["--pools", "nowhere"], "--pools nowhere: unknown; expected some of mixed"),
        (["--passes", "0"], "--passes 0: expected a positive number"),
        (["--passes", "nan"], "--passes nan: expected a positive number"),
        (["--passes", "0.001"], "shorter than one step of 256 rollouts; expected at least 0.008"),
        (["--passes", "0.02", "--pools", "mixed,single_pass"], "--passes 0.02: shorter than one step"),
        (["--seeds", "1,1"], "--seeds 1,1: a seed is given twice"),
        (["--seeds", "x"], "expected numbers like 0,1,2, found 'x'"),
        (["--seeds", ""], "expected one at least, found nothing"),
        (["--seeds=0,-1"], "--seeds 0,-1: expected numbers from 0 on"),
        (["--arms", "depo", "--encoder", "missing"], "--encoder missing: no model directory"),
        (["--groups", "2"], "--groups: arms have theirs; only --tune tries others"),
        (["--tune", "--groups", "0,2"], "--groups 0,2: expected positive numbers"),
        (["--tune", "--rates", "1,x"], "expected positive numbers like 0.5,1, found '1,x'"),
        (["--threads", "0"], "--threads 0: expected a positive number"),
    ],
)
def test_bad_input_is_one_line_before_anything_starts(options, says, tmp_path, refused):
    assert says in refused(["selection", "--out", str(tmp_path / "out"), *options])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("taken", "taken: is a file; expected a directory"),
        ("taken/deeper/out", "taken is a file, so nothing can lie below it"),
        ("/proc/out", "nothing can be made in /proc"),
    ],
)
def test_a_place_where_nothing_can_be_written_is_one_line(out, says, tmp_path, refused):
    (tmp_path / "taken").write_text("a file")
    assert says in refused(["selection", "--out", str(tmp_path / out)])


@pytest.mark.parametrize("benchmark", ["model", "throughput"])
@pytest.mark.parametrize("out", ["taken/r.json", "/proc/r.json", "directory.json"])
def test_other_benchmarks_ask_before_they_measure_too(benchmark, out, tmp_path, refused):
    (tmp_path / "taken").write_text("a file")
    (tmp_path / "directory.json").mkdir()
    model = ["--model", "organisation/name"] if benchmark == "model" else []
    assert refused([benchmark, "--out", str(tmp_path / out), *model]).startswith("error: --out")
