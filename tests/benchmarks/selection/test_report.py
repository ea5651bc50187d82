"""From run directories to a result and what is to be read of it, with run directories written by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.report import write_result
from benchmarks.selection.arms import ARMS, WORLDS
from benchmarks.selection.command import result
from benchmarks.selection.curve import read_run
from benchmarks.selection.plan import Cell
from benchmarks.selection.report import report
from benchmarks.selection.tune import report as tuning_report
from benchmarks.selection.tune import trials, tuning_cells, tuning_document
from depo.errors import UserError
from depo.report.document import Paragraph, plain

MADE = {
    "command": "python -m benchmarks selection",
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
        row |= {"prefilled/tokens": 20 * rollouts, "trained/tokens": 3 * rollouts}
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
    found = result(missing, [*where, tmp_path / "nothing"], list(speeds), WORLDS["answers"], 10, HORIZON)
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
    where = [tmp_path / cell.name for cell in cells]
    found = result(cells, where, ["grpo", "dapo"], WORLDS["answers"], 10, HORIZON)
    final = found["pools"]["single_pass"]["comparison"]["final"]
    assert final["dapo"]["accuracy"][0] == pytest.approx(0.2 + 0.2 / 4)


@pytest.fixture
def targets(table_of):
    """What of a result is shown of each target: {what: (reached, verdict)}."""

    def rows(found):
        shown = {}
        for name, (_, _, reached, verdict) in table_of(report(found), "target").items():
            what, pair, _ = name.split(", ")  # "rollouts to A, hybrid ÷ dapo, mixed"
            shown[f"{pair} at end" if what == "final accuracy" else pair] = plain(reached), plain(verdict)
        return shown

    return rows


def test_the_report_says_what_was_reached_and_what_was_missed(document, targets):
    shown = targets(document)
    assert shown["hybrid ÷ dapo"] == ("0.500 [0.500, 0.500]", "missed")
    assert shown["hybrid ÷ grpo"] == ("0.375 [0.375, 0.375]; censored 0 / 2 of 2", "met")
    assert shown["hybrid − dapo at end"][0].startswith("0.1000")


def test_leads_on_the_way_are_those_of_the_curves(document, table_of):
    """From 0.2: DAPO climbs 0.2 in 1,000 rollouts, GRPO 0.1, hybrid 0.4 but not beyond 0.5, which it reaches
    at 750, in the middle between evaluations at 0.496 and 0.5."""
    rows = table_of(report(document), "after 25% of the rollouts")
    assert {name: [round(cell.value, 3) for cell in row[1:]] for name, row in rows.items()} == {
        "hybrid − grpo": [0.075, 0.15, 0.223, 0.2],
        "hybrid − dapo": [0.05, 0.1, 0.148, 0.1],
    }


def test_shares_of_a_step_and_seconds_are_those_of_the_runs(document, table_of):
    rows = table_of(report(document), "choosing, share of a step")
    assert [plain(cell) for cell in rows["hybrid"][-2:]] == ["24 %", "12"]  # 2.4 of 10 s


def test_a_fall_at_the_end_that_smoothing_averages_away_is_shown_beside_it(document, targets):
    for runs in document["pools"]["mixed"]["seeds"].values():
        runs["hybrid"]["curve"]["accuracy"][-1] -= 0.15  # 0.05 below DAPO, where it led by 0.1
    reached, _ = targets(document)["hybrid − dapo at end"]
    assert "as measured -0.0500 [-0.0500, -0.0500]" in reached


def compared(tmp_path, runs):
    """The result of runs {(seed, arm): (speed, start)}."""
    cells = [Cell("mixed", seed, name, ARMS[name], HORIZON) for seed, name in runs]
    where = [tmp_path / "runs" / f"seed_{cell.seed}" / cell.name for cell in cells]
    for directory, (speed, start) in zip(where, runs.values(), strict=True):
        write_run(directory, speed, start)
    found = result(cells, where, sorted({name for _, name in runs}), WORLDS["answers"], 10, HORIZON)
    return {"kind": "selection", "provenance": MADE} | found


def test_pairs_with_an_arm_that_is_there_at_the_start_are_left_out_and_the_reader_is_told(
    tmp_path, targets, table_of
):
    """DAPO climbs from 0.2 to 0.4: A is 0.35. hybrid starts at 0.36 in seed 1, GRPO in both."""
    found = compared(
        tmp_path,
        {(seed, "dapo"): (0.2, 0.2) for seed in (0, 1)}
        | {(0, "hybrid"): (0.4, 0.2), (1, "hybrid"): (0.1, 0.36)}
        | {(seed, "grpo"): (0.1, 0.36) for seed in (0, 1)},
    )
    ratios = found["pools"]["mixed"]["comparison"]["ratios"]["rollouts@0.75"]
    assert (ratios["hybrid/dapo"]["seeds"], ratios["hybrid/dapo"]["left_out"]) == (1, 1)
    assert (ratios["hybrid/grpo"]["seeds"], ratios["hybrid/grpo"]["mean"]) == (0, None)
    shown = targets(found)
    assert shown["hybrid ÷ dapo"][0] == "0.500; 1 pair left out: already there at the start"
    assert shown["hybrid ÷ grpo"] == ("–; 2 pairs left out: already there at the start", "–")


def test_a_ratio_of_two_arms_that_never_got_there_is_not_shown_as_one(tmp_path, targets):
    found = compared(
        tmp_path,
        {(seed, "dapo"): (0.2, 0.2) for seed in (0, 1)}
        | {(seed, name): (0.05, 0.2) for seed in (0, 1) for name in ("grpo", "hybrid")},
    )
    assert targets(found)["hybrid ÷ grpo"] == ("–; censored 2 / 2 of 2", "–")


def test_what_failed_or_is_unfinished_is_named_and_nothing_counts_as_met_without_it(document, targets):
    """A run may be missing for what happened in it."""
    del document["pools"]["mixed"]["seeds"]["1"]["hybrid"]
    said = [plain(block.text) for block in report(document).walk() if isinstance(block, Paragraph)]
    assert "Failed or unfinished, and not in here: mixed, seed 1: hybrid." in said
    verdicts = {verdict for _, verdict in targets(document).values()}
    assert verdicts == {"–: runs are missing", "missed"}


def test_one_seed_says_nothing_of_a_target(tmp_path, targets):
    speeds = {"dapo": 0.2, "hybrid": 0.8, "grpo": 0.1}
    shown = targets(compared(tmp_path, {(0, name): (speed, 0.2) for name, speed in speeds.items()}))
    assert shown["hybrid ÷ dapo"] == ("0.250", "–")
    assert shown["hybrid − dapo at end"] == ("0.1000; as measured 0.1000", "–")


def test_an_arm_that_did_not_always_get_there_has_not_met_a_target(tmp_path, targets):
    """hybrid's rollouts to A are then at least those of the horizon: the ratio is a lower bound."""
    fast, slow = (2.0, 0.2), (0.05, 0.2)
    runs = {(seed, "dapo"): (0.2, 0.2) for seed in range(3)} | {(seed, "grpo"): slow for seed in range(3)}
    found = compared(tmp_path, runs | {(0, "hybrid"): fast, (1, "hybrid"): fast, (2, "hybrid"): slow})
    reached, verdict = targets(found)["hybrid ÷ grpo"]
    assert "censored 1 / 3 of 3" in reached
    assert float(reached.split()[0]) < 0.4
    assert verdict == "–"


def test_an_arm_without_audit_is_not_graded_by_its_warm_up(tmp_path, table_of):
    runs = {(seed, name): (0.2, 0.2) for seed in (0, 1) for name in ("dapo", "depo", "hybrid")}
    document = report(compared(tmp_path, runs))
    auroc = {name: plain(row[7]) for name, row in table_of(document, "AUROC").items()}
    assert (auroc["hybrid"], auroc["depo"]) == ("0.750", "–")


def test_arms_of_earlier_results_are_shown_under_todays_names(document, table_of):
    stored = json.loads(json.dumps(document).replace('"hybrid', '"no_view').replace('/hybrid"', '/no_view"'))
    assert "no_view" in stored["arms"]
    found = report(stored)
    assert list(table_of(found, "final, smoothed")) == ["grpo", "dapo", "no_probe"]
    assert "no_probe ÷ dapo" in table_of(found, "censored")


def test_a_damaged_run_is_named(document, tmp_path):
    path = tmp_path / "runs" / "seed_0" / "grpo"
    (path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"grpo: no finished run here .* remove it to run it again"):
        read_run(path)


def test_reports_of_a_directory_are_rendered_again(document, tmp_path):
    stored, markdown = write_result(document, tmp_path / "selection.json")
    before = stored.read_bytes(), markdown.read_text()
    picture = (tmp_path / "selection_mixed.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    markdown.unlink()
    (tmp_path / "other.json").write_text('{"something": "else"}')
    assert main(["report", str(tmp_path)]) == 0
    assert (stored.read_bytes(), markdown.read_text()) == before
    assert (tmp_path / "selection_mixed.png").read_bytes() == picture
    assert not (tmp_path / "other.md").exists()


@pytest.mark.parametrize(
    ("content", "says"), [("{", "not JSON"), ('{"a": 1}', "no result of a benchmark in it")]
)
def test_a_directory_without_results_is_refused(content, says, tmp_path, refused):
    (tmp_path / "a.json").write_text(content)
    assert says in refused(["report", str(tmp_path)])


# ---------------------------------------------------------------- tuning


def test_every_arm_is_tried_alike_with_its_own_group_size_unless_others_are_asked_for():
    world = WORLDS["chains"]
    usual = trials(["grpo", "spo"], world)
    assert {trial.lr for trial in usual} == {0.0005, 0.001, 0.002}
    assert {(trial.row, trial.arm.group_size) for trial in usual} == {("grpo", 8), ("spo", 1)}
    asked = trials(["grpo"], world, [4, 8], [1.0])
    assert [(trial.run, trial.arm.group_size) for trial in asked] == [
        ("grpo-groups-4-lr-0.001", 4),
        ("grpo-lr-0.001", 8),
    ]


def test_the_best_rate_is_that_of_the_largest_area(tmp_path, table_of):
    tried = trials(["grpo"], WORLDS["chains"], [4], [0.5, 1.0])
    cells = tuning_cells(tried, [100], HORIZON)
    where = [tmp_path / cell.name for cell in cells]
    for directory, speed in zip(where, (0.1, 0.2), strict=True):
        write_run(directory, speed)
    document = tuning_document(tried, cells, where, HORIZON)
    assert document["arms"]["grpo-groups-4"]["settings"]["group_size"] == 4
    rows = table_of(tuning_report({"kind": "selection_tuning", "provenance": MADE} | document), "best")
    # from 0.2 in a straight line, so the mean is that of its middle; 1,000 rollouts of 1,000
    assert [plain(cell) for cell in rows["grpo-groups-4"]] == ["grpo-groups-4", "0.2500", "0.3000", "0.001"]
