"""From run directories to JSON and Markdown, with run directories written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.selection.arms import ARMS
from benchmarks.selection.command import result
from benchmarks.selection.curve import read_run
from benchmarks.selection.plan import Cell
from depo.cli import main
from depo.errors import UserError
from depo.report.document import render, write_result

MADE = {
    "command": "depo bench selection",
    "seeds": [0, 1],
    "machine": {"processor": "a processor", "cores": 2, "system": "Linux", "gpus": []},
    "versions": {"torch": "2"},
    "commit": "abc",
    "date": "2026-01-01",
}
HORIZON = 1000


def write_run(directory, speed, start=0.2):
    """A run whose accuracy rises by ``speed``/1000 a rollout, from ``start`` up to 0.5."""
    directory.mkdir(parents=True)
    rows = []
    for step in range(1, 101):
        rollouts = 10 * step
        row = {"step": step, "generated/rollouts": rollouts, "generated/tokens": 5 * rollouts}
        row |= {"optimizer_steps": 1.0}
        if step % 2 == 0 and step < 100:
            row["eval/all"] = min(start + speed * rollouts / 1000, 0.5)
        rows.append(json.dumps(row))
    (directory / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    before, after = ({"all": value, "solvable": 2 * value} for value in (start, min(start + speed, 0.5)))
    summary = {
        "eval": {"before": before, "after": after},
        "groups": {"effective_ratio": speed},
        "rollouts": {"generated": HORIZON, "by_outcome": {"trained": 500, "zero_variance": 500}},
        "prompts": {"seen": 40},
        "selection": {"calibration/auroc": 0.75},
        "seconds": {"select": 2.0 + speed, "steps": 10.0, "wall": 12.0},
        "versions": {"commit": "def"},
    }
    (directory / "summary.json").write_text(json.dumps(summary))
    composition = {"accuracy": 0.2, "said": ["graded pool, 40 prompts: half mastered"]}
    (directory.parent / "composition.json").write_text(json.dumps(composition))


@pytest.fixture
def document(tmp_path):
    """DAPO climbs at 0.2 per 1,000 rollouts, GRPO at half and hybrid at twice that, in both seeds."""
    speeds = {"grpo": 0.1, "dapo": 0.2, "hybrid": 0.4}
    cells = [Cell("mixed", seed, name, ARMS[name], HORIZON) for seed in (0, 1) for name in speeds]
    where = [tmp_path / "runs" / f"seed_{cell.seed}" / cell.name for cell in cells]
    for cell, directory in zip(cells, where, strict=True):
        write_run(directory, speeds[cell.name])
    missing = [*cells, Cell("mixed", 2, "dapo", ARMS["dapo"], HORIZON)]
    found = result(missing, [*where, tmp_path / "nothing"], list(speeds), 10, HORIZON)
    return {"kind": "selection", "provenance": MADE} | found


def test_ratios_and_differences_are_those_of_the_curves(document):
    comparison = document["pools"]["mixed"]["comparison"]
    ratios = comparison["ratios"]["rollouts@0.75"]
    assert ratios["hybrid/dapo"]["mean"] == pytest.approx([0.5, 0.5, 0.5])
    assert ratios["hybrid/dapo"]["seeds"] == 2
    # GRPO ends at 0.3, short of the 0.35 that DAPO has after 750: censored at the horizon, in both seeds.
    assert ratios["hybrid/grpo"]["mean"][0] == pytest.approx(375 / 1000)
    assert ratios["hybrid/grpo"]["censored"] == [0, 2]
    assert comparison["final"]["hybrid"]["minus_dapo"] == pytest.approx([0.1, 0.1, 0.1])
    updates = comparison["ratios"]["updates@0.75"]["hybrid/dapo"]["mean"]
    assert updates == pytest.approx([0.5, 0.5, 0.5])


def test_a_pool_with_a_horizon_of_its_own_is_compared_over_that(tmp_path):
    cells = [Cell("single_pass", 0, name, ARMS[name], HORIZON // 4) for name in ("grpo", "dapo")]
    for cell, speed in zip(cells, (0.1, 0.2), strict=True):
        write_run(tmp_path / cell.name, speed)
    found = result(cells, [tmp_path / cell.name for cell in cells], ["grpo", "dapo"], 10, HORIZON)
    final = found["pools"]["single_pass"]["comparison"]["final"]
    assert final["dapo"]["accuracy"][0] == pytest.approx(0.2 + 0.2 / 4)
    _, report = write_result({"kind": "selection", "provenance": MADE} | found, tmp_path / "selection.json")
    assert f"After {HORIZON // 4:,} rollouts" in report.read_text()


def test_the_report_says_what_was_reached_and_what_was_missed(document, tmp_path):
    path, report = write_result(document, tmp_path / "selection.json")
    text = report.read_text()
    assert "| rollouts to A, hybrid ÷ dapo, mixed | ≤ 0.35 | 0.500 [0.500, 0.500] | **missed** |" in text
    assert "| rollouts to A, hybrid ÷ grpo, mixed | ≤ 0.40 | 0.375" in text
    assert "censored 0 / 2 of 2 | met |" in text
    assert "| final accuracy, hybrid − dapo, mixed | > 0.02, interval above 0 | 0.1000" in text
    assert "depo bench selection" in text
    assert "abc" in text
    assert "runs made at commit def" in text
    assert "| 24 % | 12 |" in text  # hybrid
    assert (tmp_path / "selection_mixed.png").stat().st_size > 1000
    # Rendered again from the file alone it is the same.
    assert render(json.loads(path.read_text()), path).read_text() == text


def test_a_fall_at_the_end_that_smoothing_averages_away_is_shown_beside_it(document, tmp_path):
    for runs in document["pools"]["mixed"]["seeds"].values():
        runs["hybrid"]["curve"]["accuracy"][-1] -= 0.15  # 0.05 below DAPO, where it led by 0.1
    _, report = write_result(document, tmp_path / "selection.json")
    row = next(line for line in report.read_text().splitlines() if "final accuracy, hybrid − dapo" in line)
    assert "as measured -0.0500 [-0.0500, -0.0500]" in row


def compared(tmp_path, runs):
    """Report of runs {(seed, arm): (speed, start)}."""
    cells = [Cell("mixed", seed, name, ARMS[name], HORIZON) for seed, name in runs]
    where = [tmp_path / "runs" / f"seed_{cell.seed}" / cell.name for cell in cells]
    for directory, (speed, start) in zip(where, runs.values(), strict=True):
        write_run(directory, speed, start)
    found = result(cells, where, sorted({name for _, name in runs}), 10, HORIZON)
    _, report = write_result({"kind": "selection", "provenance": MADE} | found, tmp_path / "selection.json")
    return report.read_text()


def test_pairs_with_an_arm_that_is_there_at_the_start_are_left_out_and_the_reader_is_told(tmp_path):
    """DAPO climbs from 0.2 to 0.4: A is 0.35. hybrid starts at 0.36 in seed 1, GRPO in both."""
    text = compared(
        tmp_path,
        {(seed, "dapo"): (0.2, 0.2) for seed in (0, 1)}
        | {(0, "hybrid"): (0.4, 0.2), (1, "hybrid"): (0.1, 0.36)}
        | {(seed, "grpo"): (0.1, 0.36) for seed in (0, 1)},
    )
    assert "| hybrid ÷ dapo | 0.500; 1 pair left out: already there at the start | 1 | 0 / 0 of 1 |" in text
    assert "| hybrid ÷ grpo | –; 2 pairs left out: already there at the start | 0 | 0 / 0 of 0 |" in text
    assert "hybrid ÷ grpo, mixed | ≤ 0.40 | –; 2 pairs left out: already there at the start | – |" in text


def test_a_ratio_of_two_arms_that_never_got_there_is_not_shown_as_one(tmp_path):
    text = compared(
        tmp_path,
        {(seed, "dapo"): (0.2, 0.2) for seed in (0, 1)}
        | {(seed, name): (0.05, 0.2) for seed in (0, 1) for name in ("grpo", "hybrid")},
    )
    assert "| hybrid ÷ grpo | – | 2 | 2 / 2 of 2 |" in text
    assert "| rollouts to A, hybrid ÷ grpo, mixed | ≤ 0.40 | –; censored 2 / 2 of 2 | – |" in text
    assert "1.000 [1.000, 1.000]" not in text


def test_what_failed_or_is_unfinished_is_named_and_nothing_counts_as_met_without_it(document, tmp_path):
    """A run may be missing for what happened in it."""
    del document["pools"]["mixed"]["seeds"]["1"]["hybrid"]
    _, report = write_result(document, tmp_path / "selection.json")
    text = report.read_text()
    assert "**Failed or unfinished, and not in here**: mixed, seed 1: hybrid." in text
    assert "| met |" not in text
    assert "| –: runs are missing |" in text
    assert "0.500 [0.500, 0.500] | **missed** |" in text


def test_one_seed_says_nothing_of_a_target(tmp_path):
    speeds = {"dapo": 0.2, "hybrid": 0.8, "grpo": 0.1}
    text = compared(tmp_path, {(0, name): (speed, 0.2) for name, speed in speeds.items()})
    assert "hybrid ÷ dapo, mixed | ≤ 0.35 | 0.250 | – |" in text
    assert "hybrid − dapo, mixed | > 0.02, interval above 0 | 0.1000; as measured 0.1000 | – |" in text


def test_an_arm_that_did_not_always_get_there_has_not_met_a_target(tmp_path):
    """hybrid's rollouts to A are then at least those of the horizon: the ratio is a lower bound."""
    fast, slow = (2.0, 0.2), (0.05, 0.2)
    runs = {(seed, "dapo"): (0.2, 0.2) for seed in range(3)} | {(seed, "grpo"): slow for seed in range(3)}
    text = compared(tmp_path, runs | {(0, "hybrid"): fast, (1, "hybrid"): fast, (2, "hybrid"): slow})
    row = next(line for line in text.splitlines() if "rollouts to A, hybrid ÷ grpo" in line)
    assert "censored 1 / 3 of 3" in row
    assert float(row.split("|")[3].split()[0]) < 0.4
    assert row.endswith("| – |")


def test_an_arm_without_audit_is_not_graded_by_its_warm_up(tmp_path):
    runs = {(seed, name): (0.2, 0.2) for seed in (0, 1) for name in ("dapo", "depo", "hybrid")}
    rows = {
        line.split("|")[1].strip(): line for line in compared(tmp_path, runs).splitlines() if "| 2 |" in line
    }
    assert "| 0.750 |" in rows["`hybrid`"]
    assert "| 0.750 |" not in rows["`depo`"]


def test_a_damaged_run_is_named(document, tmp_path):
    path = tmp_path / "runs" / "seed_0" / "grpo"
    (path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"grpo: no finished run here .* remove it to run it again"):
        read_run(path)


def test_reports_of_a_directory_are_rendered_again(document, tmp_path, capsys):
    _, report = write_result(document, tmp_path / "selection.json")
    before = report.read_text()
    report.unlink()
    (tmp_path / "other.json").write_text('{"something": "else"}')
    assert main(["bench", "report", str(tmp_path)]) == 0
    assert report.read_text() == before
    assert not (tmp_path / "other.md").exists()


def test_numbers_in_the_file_are_finite(document):
    text = json.dumps(document, allow_nan=False)
    assert np.isfinite(json.loads(text)["pools"]["mixed"]["seeds"]["0"]["hybrid"]["curve"]["accuracy"]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--arms", "grpo,nonsense"], "--arms nonsense: unknown; expected some of grpo, dapo"),
        (["--pools", "nowhere"], "--pools nowhere: unknown; expected some of mixed"),
        (["--passes", "0"], "--passes 0: expected a positive number"),
        (["--seeds", "1,1"], "--seeds 1,1: a seed is given twice"),
        (["--encoder", "missing"], "--encoder missing: no model directory"),
        (["--seeds", "x"], "expected numbers like 0,1,2, found 'x'"),
        (["--seeds", ""], "expected one at least, found nothing"),
        (["--arms", ","], "expected one at least, found nothing"),
        (["--threads", "-1"], "--threads -1: expected a positive number"),
        (["--threads", "0"], "--threads 0: expected a positive number"),
    ],
)
def test_bad_input_is_one_clear_line(options, says, tmp_path, capsys):
    try:
        status = main(["bench", "selection", "--out", str(tmp_path / "out"), *options])
    except SystemExit as error:
        status = error.code
    said = capsys.readouterr().err.strip()
    assert status == 2
    assert says in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not JSON"), ('{"a": 1}', "no JSON file written by depo bench in it")]
)
def test_a_directory_without_results_is_refused(content, says, tmp_path, capsys):
    (tmp_path / "a.json").write_text(content)
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert says in capsys.readouterr().err
