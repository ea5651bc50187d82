"""The first-visit benchmark runs on the real trace and says what it did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_grades_odd_prompts_and_names_its_command(test_data, tmp_path):
    command = ["--data", str(test_data), "--model", "unused", "--arms", "ngram", "--sizes", "500", "1500"]
    command += ["--graded", "1500", "--out", str(tmp_path / "first_visit")]
    subprocess.run([sys.executable, "-m", "benchmarks.first_visit", *command], cwd=ROOT, check=True)
    result = json.loads((tmp_path / "first_visit.json").read_text())
    # 29,319 prompts appear once in the trace; halves by the parity of their keys.
    assert result["prompts"] == "14618 even to fit on, 1500 odd graded"
    assert str(test_data) not in json.dumps(result)
    assert "--data DATA --model MINILM --arms ngram" in result["command"]
    assert [row["groups"] for row in result["rows"]] == [500, 1500]
    assert result["rows"][1]["all_right"] > 0.65  # chance is 0.5, with a standard error near 0.016
    assert "| ngram | 1500 |" in (tmp_path / "first_visit.md").read_text()
