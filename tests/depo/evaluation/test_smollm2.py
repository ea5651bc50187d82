"""The harness on a real language model and real benchmarks, a handful of problems."""

from __future__ import annotations

import json

import pyarrow.parquet as pq

from depo.cli import main


def test_smollm2_on_a_few_problems_of_the_math_suite(smollm2, test_data, tmp_path):
    names = ("gsm8k", "math500", "amc23", "olympiadbench", "minerva_math")
    arguments = [f"benchmarks.{name}.source.limit={1 if name != 'gsm8k' else 2}" for name in names]
    arguments += ["sampling.max_new_tokens=24", "dtype=float32", "threads=1", "resamples=20", "--n", "2"]
    command = [
        "eval",
        str(smollm2),
        "--suite",
        "math",
        "--data-dir",
        str(test_data),
        "--run-dir",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--quiet", *arguments]) == 0
    document = json.loads((tmp_path / "out/results.json").read_text())
    assert list(document["benchmarks"]) == list(names)
    assert [one["problems"] for one in document["benchmarks"].values()] == [2, 1, 1, 1, 1]
    rows = [
        row
        for file in (tmp_path / "out/samples").glob("*.parquet")
        for row in pq.read_table(file).to_pylist()
    ]
    assert len(rows) == 12
    assert all(0 < row["tokens"] <= 24 for row in rows)
    assert all(len(set(row["completion"].split())) > 3 for row in rows), "it talks"
    assert str(test_data) not in (tmp_path / "out/results.json").read_text()
