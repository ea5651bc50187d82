"""What is to be read of a result comes from the result alone, which is written by hand here."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.model.figures import comparisons
from benchmarks.model.report import ratio_so_far, report
from benchmarks.report import write_result
from depo.report.document import CodeBlock, Number, Paragraph, Section, Text, plain

SETTING = {
    "model": "smollm2",
    "task": "sums",
    "max_new_tokens": 48,
    "engine": "transformers",
    "horizon": 320,
    "form": {
        "name": "cpu",
        "steps": 20,
        "prompts": 4,
        "group_size": 4,
        "dtype": "float32",
        "lr": 5e-6,
        "pool": 240,
        "heldout": 64,
        "samples": 2,
    },
}
MADE = {
    "command": "python -m benchmarks model --out r.json",
    "seeds": [0],
    "machine": {"processor": "some CPU", "cores": 2, "system": "Linux", "gpus": []},
    "versions": {"python": "3.11"},
    "commit": None,
    "date": "2026-01-01",
}


def figures(accuracy: float, auroc: float | None) -> dict[str, Any]:
    return {
        "steps": 20,
        "rollouts": 352,
        "tokens": 9000,
        "updates": 18.0,
        "accuracy": {
            "before": 0.25,
            "after": accuracy,
            "at_horizon": accuracy,
            "curve": [[0, 0.25], [352, accuracy]],
        },
        "reward": [0.125, 0.5],
        "effective_groups": 33,
        "effective_ratio": 0.375,
        "rollouts_per_effective_group": 10.7,
        "tokens_per_effective_group": 1234.5,
        "uniform": {"drawn": 20, "informative": 5, "rate": 0.25},
        "saved": None if auroc is None else 176.0,
        "saved_interval": None if auroc is None else [-20.0, 700.0],
        "audit": {"groups": 20.0, "auroc": auroc, "brier_skill": -0.125, "ece": 0.2},
        "active_share": 0.75,
        "coverage": {"seen": 60, "pool": 176, "starvation": None},
        "mismatch_kl": 1.5e-12,
        "completion_tokens": 25.6,
        "seconds": {"generate": 99.5, "steps": 150.0, "wall": 180.0},
        "trace": [
            {"rollouts": 16, "groups": 4, "effective_groups": 1},
            {"rollouts": 48, "groups": 8, "effective_groups": 5},
        ],
    }


@pytest.fixture
def document() -> dict[str, Any]:
    runs = [
        {"seed": 0, "arm": "grpo", "status": "done", "figures": figures(0.3125, None)},
        {"seed": 0, "arm": "hybrid", "status": "done", "figures": figures(0.4375, 0.625)},
        {
            "seed": 0,
            "arm": "dapo",
            "status": "failed",
            "exit_status": 1,
            "last_lines": ["error: out of memory"],
        },
    ]
    return {
        "kind": "model",
        "provenance": MADE,
        "setting": SETTING,
        "arms": {arm: {} for arm in ("grpo", "dapo", "hybrid")},
        "runs": runs,
        "comparisons": comparisons(runs),
    }


@pytest.fixture
def row(document, section_of):
    """Cells of an arm's row in the table of a section."""

    def cells(section: str, arm: str) -> list[Text]:
        table = section_of(report(document), section).blocks[0]
        (found,) = (row for row in table.rows if row[1] == arm)
        return list(found[2:])

    return cells


def test_tables_say_what_the_result_says(row) -> None:
    result = row("Result", "hybrid")
    assert [cell.value for cell in result[:3]] == [0.25, 0.4375, 0.4375]
    assert [plain(cell) for cell in result[3:]] == ["0.125 → 0.500", "352", "20", "18"]
    *cost, saved = row("What an effective group cost", "hybrid")
    assert [plain(cell) for cell in cost] == ["0.375", "33", "10.7", "1,234", "0.25 of 20"]
    assert (saved.value, saved.low, saved.high) == (176.0, -20.0, 700.0)
    assert plain(row("What an effective group cost", "grpo")[-1]) == "–"
    share, groups, auroc, skill, *_ = row("Diagnosis", "hybrid")
    assert (share.value, groups.value, auroc.value, skill.value) == (0.75, 20.0, 0.625, -0.125)
    assert row("Diagnosis", "grpo")[2].value is None


def test_arms_are_compared_with_the_baselines(document, section_of) -> None:
    table = section_of(report(document), "Held-out accuracy").blocks[0]
    assert [list(one) for one in table.rows] == [["hybrid − grpo", Number(0.125, "+.3f"), "–", "+0.125"]]


def test_a_failed_run_is_told_with_its_last_lines_and_kept_out_of_the_tables(document, section_of) -> None:
    told = section_of(report(document), "Failed")
    assert [type(block) for block in told.blocks] == [Paragraph, CodeBlock]
    assert plain(told.blocks[0].text) == "Seed 0, dapo: exit status 1."
    assert told.blocks[1].text == "error: out of memory"
    table = section_of(report(document), "Result").blocks[0]
    assert [row[1] for row in table.rows] == ["grpo", "hybrid"]


def test_what_was_asked_for_and_has_not_ended_is_named(document) -> None:
    document["provenance"] = MADE | {"seeds": [0, 1]}
    said = [plain(block.text) for block in report(document).walk() if isinstance(block, Paragraph)]
    assert "Unfinished, and not in here: seed 1 grpo, seed 1 dapo, seed 1 hybrid." in said


@pytest.mark.parametrize(("jobs", "says"), [(1, "One run at a time."), (3, "3 runs at a time")])
def test_how_many_ran_at_a_time_is_said_where_seconds_are(document, section_of, jobs, says) -> None:
    document["setting"] = SETTING | {"jobs": jobs}
    assert plain(section_of(report(document), "Seconds").blocks[-1].text).startswith(says)


def test_the_picture_lies_beside_the_report(document, tmp_path) -> None:
    _, markdown = write_result(document, tmp_path / "model.json")
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert "](model.png)" in markdown.read_text()


def test_a_result_without_any_finished_run_has_a_report_too(document, tmp_path) -> None:
    document["runs"], document["comparisons"] = document["runs"][2:], []
    write_result(document, tmp_path / "model.json")
    titles = [block.title for block in report(document).walk() if isinstance(block, Section)]
    assert titles == ["Failed"]


def test_ratio_is_cumulative() -> None:
    rollouts_S, ratio_S = ratio_so_far(figures(0.3, None)["trace"])
    assert rollouts_S.tolist() == [16, 48]
    assert ratio_S == pytest.approx([1 / 4, 6 / 12])
