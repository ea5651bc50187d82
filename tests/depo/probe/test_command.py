"""``depo probe`` as a user runs it: on an untrained tiny policy, and on a real language model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from depo.cli import main
from depo.data import load_saved

SMALL = ["raw=true", 'template="{question}"', "sampling.max_new_tokens=5", "dtype=float32", "threads=1"]
SMALL += ["verification.workers=1", "resamples=20", "--reward", "even_reward:judge"]


def test_a_probe_writes_all_it_promises_and_a_recipe_that_passes_a_dry_run(
    workdir: Path, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workdir)
    probe = [
        "probe",
        str(tiny_policy),
        "sums.jsonl",
        *SMALL,
        "--prompts",
        "12",
        "--n",
        "4",
        "--run-dir",
        "out",
    ]
    assert main([*probe, "--write", "mine.yaml", "--html", "probe.html"]) == 0
    shown = capsys.readouterr().out
    assert "12 of them drawn at random" in shown
    assert "48 completions" in shown
    assert "mine.yaml: written" in shown
    result = json.loads(Path("out/probe.json").read_text())
    assert [one["by"] for one in result["zero_variance"]] == ["counts", "beta", "beta"]
    assert sum(count for _, count in result["histogram"]) == 12
    assert result["suspects"] is None, "a reward of one's own knows no answers"
    asked = [prompt.text for prompt in load_saved(Path("out/problems/probe.parquet"))]
    questions = [json.loads(line)["question"] for line in Path("sums.jsonl").read_text().splitlines()]
    assert set(asked) <= set(questions)
    assert asked != questions[:12]

    assert yaml.safe_load(Path("mine.yaml").read_text())["data"]["raw"] is True
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    assert main(["replay", "out/trace.parquet", "--estimator", "mopps", "--split", "all"]) == 0
    assert main(["report", "out", "--out", "again.html"]) == 0
    page = Path("probe.html").read_text()
    assert Path("again.html").read_text() == page
    assert "never right" in page

    samples = sorted(Path("out/samples").iterdir())
    assert main([*probe, "--resume"]) == 0
    assert sorted(Path("out/samples").iterdir()) == samples, "nothing was drawn twice"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.jsonl"], "DATA: file none.jsonl does not exist"),
        (["sums.jsonl", "--n", "3"], "--n 3: pass rates need at least 4"),
        (["sums.jsonl", "--prompts", "0"], "benchmarks.probe.sample"),
        (["sums.jsonl", "--reward", "luck"], "--reward luck: must be math"),
        (["sums.jsonl", "--answer", "x"], "--answer: no column 'x'"),
        (["sums.jsonl", "--write", "tiny.yaml"], "not there yet"),
        (["sums.jsonl", "sampling.topp=1"], "topp"),
        (["sums.jsonl", "benchmarks.more.source=sums.jsonl"], "a probe has one"),
        (["sums.jsonl"], "raw: the model's tokenizer has no chat template"),
    ],
)
def test_bad_input_is_told_in_one_line_and_leaves_nothing(
    workdir: Path,
    tiny_policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(workdir)
    assert main(["probe", str(tiny_policy), *arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error
    assert not Path("runs").exists()


def test_what_is_no_model_is_told(workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(workdir)
    assert main(["probe", "./nowhere", "sums.jsonl"]) == 2
    assert "./nowhere: no such directory" in capsys.readouterr().err


def test_smollm2_on_word_problems(
    smollm2: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    data, small = test_data / "eval" / "gsm8k_test.jsonl", ["sampling.max_new_tokens=24", "dtype=float32"]
    flags = ["--prompts", "2", "--n", "4", "--run-dir", "out", "--write", "mine.yaml"]
    assert (
        main(["probe", str(smollm2), str(data), *flags, *small, "threads=1", "verification.workers=1"]) == 0
    )
    result = json.loads(Path("out/probe.json").read_text())
    assert result["truncated"][0] > 0.5, "no solution in 24 tokens"
    assert result["examples"]["truncated"][0]["end"]
    assert result["recipe"]["max_new_tokens"] == 48
    assert "cut at 24" in capsys.readouterr().out
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
