"""The report says what the document holds, and which targets it reached."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.throughput.report import report
from depo.report.document import Figure, plain


def figure(depo: float, trl: float, mean: float) -> dict[str, Any]:
    return {
        "depo": {"median": depo, "min": depo - 1, "max": depo + 1},
        "trl": {"median": trl, "min": trl - 1, "max": trl + 1},
        "advantage": {"geometric_mean": mean, "low": mean - 0.1, "high": mean + 0.1},
    }


def document() -> dict[str, Any]:
    return {
        "kind": "throughput",
        "provenance": {
            "command": "python -m benchmarks throughput --out result.json",
            "seeds": [0],
            "machine": {"processor": "some processor", "cores": 2, "system": "Linux", "gpus": []},
            "versions": {"torch": "2.13.0", "trl": "1.16.0"},
            "commit": "abc",
            "date": "2026-01-02",
        },
        "settings": {
            "model": "tiny",
            "prompts": 32,
            "group_size": 8,
            "max_new_tokens": 8,
            "steps": 30,
            "repeats": 5,
            "threads": 1,
            "micro_rows": 256,
            "rows": 256,
            "row_prompt_tokens": 16,
            "longest": 96,
            "spread": 8,
            "row_micro_rows": 64,
            "updates": 4,
        },
        "end_to_end": {
            "settings": {"max_new_tokens": 8, "steps": 30, "micro_rows": 256},
            "pairs": [],
            "summary": {
                "samples_per_second": figure(650.0, 500.0, 1.35),
                "peak_memory_mib": figure(1500.0, 800.0, 0.53),
            },
        },
        "end_to_end_long": {
            "settings": {"max_new_tokens": 96, "steps": 10, "micro_rows": 64},
            "pairs": [],
            "summary": {
                "samples_per_second": figure(70.0, 60.0, 1.17),
                "tokens_per_step": figure(5000.0, 5010.0, 1.0),
            },
        },
        "update": {
            "pairs": [{"depo": {"padding_share": 0.08}, "trl": {"padding_share": 0.375}}],
            "summary": {"learner_tokens_per_second": figure(9000.0, 6500.0, 1.42)},
            "agreement": {"cosine": 1 - 1e-12, "norm_difference": 1e-8, "loss_difference": 6e-9},
        },
        "driver": {
            "steps": 60,
            "step_seconds": 0.4,
            "selecting_share": 1.0,
            "groups_per_step": 43.0,
            "shares": {
                "generate": 0.4,
                "update": 0.5,
                "verify": 0.02,
                "evaluate": 0.0,
                "driver": 0.08,
                "select": 0.015,
                "estimate_exposed": 0.001,
                "estimate_hidden": 0.03,
            },
            "select_seconds": 0.006,
            "critical_path_share": 0.016,
            "critical_path_share_long_step": 0.000053,
        },
    }


@pytest.fixture
def targets(table_of):
    """What of a result is shown of each target: [measured, verdict], in order."""

    def rows(result: dict[str, Any]) -> list[tuple[str, str]]:
        found = table_of(report(result), "target").values()
        return [(plain(measured), plain(verdict)) for _, measured, _, verdict in found]

    return rows


def test_each_target_is_judged_by_its_figure(targets) -> None:
    assert targets(document()) == [
        ("1.35× (1.25 to 1.45)", "reached"),  # of 1.3
        ("1.17× (1.07 to 1.27)", "missed"),
        ("1.42× (1.32 to 1.52)", "missed"),  # of 1.5
        ("1.60%", "reached"),
        ("0.005%", "reached"),
    ]
    slower = document()
    slower["driver"]["critical_path_share"] = 0.021
    assert targets(slower)[3] == ("2.10%", "missed")


def test_where_depo_is_worse_the_report_says_so(table_of) -> None:
    memory = table_of(report(document()), "depo's advantage")["peak memory, MiB"]
    assert memory[1:] == ["1,500 (1,499–1,501)", "800 (799–801)", "0.53× (0.43 to 0.63)"]


def test_a_single_pair_claims_no_interval(targets) -> None:
    single = document()
    single["end_to_end"]["summary"]["samples_per_second"]["advantage"] |= {"low": None, "high": None}
    assert targets(single)[0][0] == "1.35× (one pair, no interval)"


def test_the_picture_shows_every_advantage_with_its_interval() -> None:
    (figure,) = (block for block in report(document()).walk() if isinstance(block, Figure))
    (axes,) = figure.draw().axes
    shown = [
        (float(bar[0].get_xdata()[0]), *(float(x) for x in bar[2][0].get_segments()[0][:, 0]))
        for bar in axes.containers
    ]
    wanted = [(m, m - 0.1, m + 0.1) for m in (1.35, 0.53, 1.17, 1.42)]
    assert shown == [pytest.approx(one) for one in wanted]
