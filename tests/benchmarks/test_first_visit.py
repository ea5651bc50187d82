"""The first-visit benchmark runs on the real trace and says what it did."""

from __future__ import annotations

import json

from benchmarks.__main__ import main
from benchmarks.first_visit import report
from depo.report.document import Number


def test_the_benchmark_grades_odd_prompts_and_names_its_command(test_data, tmp_path, table_of):
    replay = {"settings": {"command": "depo replay TRACE", "prior": None}, "estimators": {}}
    (tmp_path / "replay.json").write_text(json.dumps(replay))
    options = ["--data", str(test_data), "--model", "unused", "--arms", "hybrid", "--sizes", "500", "1500"]
    options += ["--graded", "1500", "--replays", str(tmp_path / "replay.json")]
    assert main(["first_visit", *options, "--out", str(tmp_path / "first_visit")]) == 0
    result = json.loads((tmp_path / "first_visit.json").read_text())
    # 29,319 prompts appear once in the trace; halves by the parity of their keys.
    assert result["prompts"] == "14618 even to fit on, 1500 odd graded"
    assert result["provenance"]["command"].startswith("python -m benchmarks first_visit --data ")
    assert str(test_data) not in json.dumps(result)
    assert result["replays"] == [{"command": "depo replay TRACE", "prior": None, "estimators": {}}]
    assert [row["groups"] for row in result["rows"]] == [500, 1500]
    assert result["rows"][1]["all_right"] > 0.65  # chance is 0.5, with a standard error near 0.016
    shown = table_of(report(result), "groups observed")["hybrid"]
    assert Number(result["rows"][1]["all_right"]) in shown
