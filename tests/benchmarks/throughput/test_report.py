"""The report says what the document holds, and which targets it reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.throughput.report import markdown


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
            "command": "depo bench throughput --out result.json",
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


def line_with(text: str, words: str) -> str:
    return next(line for line in text.splitlines() if words in line)


def test_each_target_is_judged_by_its_figure() -> None:
    text = markdown(document(), Path("result"))
    whole = line_with(text, "end-to-end samples/s")
    assert "1.35× (1.25 to 1.45)" in whole
    assert whole.endswith("| reached |")
    long = line_with(text, "lengths spread as they fall")
    assert "1.17× (1.07 to 1.27)" in long
    assert long.endswith("| **missed** |")
    alone = line_with(text, "learner tokens/s, lengths spread 1:8")
    assert "1.42× (1.32 to 1.52)" in alone
    assert alone.endswith("| **missed** |")
    live = line_with(text, "sub-second steps")
    assert "1.60%" in live
    assert live.endswith("| reached |")

    slower = document()
    slower["driver"]["critical_path_share"] = 0.021
    assert line_with(markdown(slower, Path("result")), "sub-second steps").endswith("| **missed** |")


def test_where_depo_is_worse_the_report_says_so() -> None:
    memory = line_with(markdown(document(), Path("result")), "peak memory")
    assert "1,500 (1,499–1,501)" in memory
    assert "800 (799–801)" in memory
    assert "0.53×" in memory


def test_head_names_command_machine_and_commit() -> None:
    text = markdown(document(), Path("result"))
    assert "depo bench throughput --out result.json" in text
    assert "some processor, 2 cores" in text
    assert "commit abc" in text


def test_a_single_pair_claims_no_interval() -> None:
    single = document()
    single["end_to_end"]["summary"]["samples_per_second"]["advantage"] |= {"low": None, "high": None}
    assert "1.35× (one pair, no interval)" in markdown(single, Path("result"))
