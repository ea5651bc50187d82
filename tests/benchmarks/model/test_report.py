"""Markdown and picture come from the document alone; the document here is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.model.figures import comparisons
from benchmarks.model.report import ratio_so_far
from depo.report.document import write_result

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
    "command": "depo bench model --out r.json",
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
        "uniform": {"drawn": 20, "mixed": 5, "rate": 0.25},
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


def row(text: str, section: str, arm: str) -> list[str]:
    """Cells of an arm's row in the table under a heading."""
    table = text.split(f"## {section}")[1].split("\n## ")[0]
    line = next(line for line in table.splitlines() if line.startswith(f"| 0 | {arm} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][2:]


def test_tables_say_what_the_document_says(document, tmp_path) -> None:
    _, markdown = write_result(document, tmp_path / "model.json")
    text = markdown.read_text()
    assert row(text, "Result", "hybrid") == ["0.250", "0.438", "0.438", "0.125 → 0.500", "352", "20", "18"]
    assert row(text, "What an effective group cost", "hybrid") == [
        *("0.375", "33", "10.7", "1,234", "0.25 of 20", "+176 [-20, +700]")
    ]
    assert row(text, "What an effective group cost", "grpo")[-1] == "–"
    assert row(text, "Diagnosis", "hybrid")[:4] == ["75%", "20", "0.625", "-0.125"]
    assert row(text, "Diagnosis", "grpo")[2] == "–"
    assert "| hybrid − grpo | +0.125 | – | +0.125 |" in text
    assert "commit unknown" in text
    assert "some CPU" in text


def test_a_failed_run_is_told_with_its_last_lines_and_kept_out_of_the_tables(document, tmp_path) -> None:
    text = write_result(document, tmp_path / "model.json")[1].read_text()
    assert "Seed 0, dapo: exit status 1." in text
    assert "    error: out of memory" in text
    assert "| 0 | dapo |" not in text


def test_what_was_asked_for_and_has_not_ended_is_named(document, tmp_path) -> None:
    document["provenance"] = MADE | {"seeds": [0, 1]}
    text = write_result(document, tmp_path / "model.json")[1].read_text()
    assert "**Unfinished, and not in here**: seed 1 grpo, seed 1 dapo, seed 1 hybrid." in text


def test_picture_lies_beside_the_report_and_is_linked(document, tmp_path) -> None:
    text = write_result(document, tmp_path / "model.json")[1].read_text()
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert "](model.png)" in text


def test_a_result_without_any_finished_run_is_rendered_too(document, tmp_path) -> None:
    document["runs"], document["comparisons"] = document["runs"][2:], []
    assert "## Result" not in Path(write_result(document, tmp_path / "model.json")[1]).read_text()


def test_ratio_is_cumulative() -> None:
    rollouts_S, ratio_S = ratio_so_far(figures(0.3, None)["trace"])
    assert rollouts_S.tolist() == [16, 48]
    assert ratio_S == pytest.approx([1 / 4, 6 / 12])
