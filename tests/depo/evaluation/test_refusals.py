"""A command that was refused leaves nothing in the way of the corrected one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from depo.cli import main
from depo.errors import UserError
from depo.evaluation.evaluator import context_for, load_benchmarks
from depo.evaluation.model import load_tokenizer
from depo.recipe.suites import load_suite


@pytest.fixture
def unloadable(cheap, tiny_policy: Path) -> Path:
    broken = Path(shutil.copytree(tiny_policy, cheap / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut short")
    return broken


@pytest.fixture
def endless(cheap, tiny_policy: Path) -> Path:
    """A model whose tokenizer has no end token."""
    directory = Path(shutil.copytree(tiny_policy, cheap / "endless"))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def test_refused_late_or_early_the_corrected_command_runs_in_the_same_directory(
    cheap, tiny_policy, unloadable, endless, capsys
):
    good = ["eval", str(tiny_policy), "--suite", "cheap.yaml", "--run-dir", "out", "--quiet"]
    for refused, complaint in (
        (
            ["eval", str(unloadable), *good[2:]],
            "damaged: it has no header of safetensors",
        ),
        ([*good, "--vs", str(endless)], "has no end-of-sequence token"),
        ([*good, "benchmarks.sums.source.columns.answer=gold"], "no column 'gold'"),
        ([*good, "sampling.max_new_tokens=4000"], "tiny; at most 60 fit"),
        ([*good, "reward={type: function, path: 'gone:judge'}"], "no module 'gone'"),
    ):
        assert main(refused) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1
        assert not (cheap / "out").exists()
    assert main([*good, "--n", "1"]) == 0


def test_an_evaluation_that_was_cut_off_is_told_from_a_directory_that_is_no_model(cheap, tiny_policy, capsys):
    assert main(["eval", str(tiny_policy), "--suite", "cheap.yaml", "--run-dir", "half", "--quiet"]) == 0
    (cheap / "half/results.json").unlink()
    capsys.readouterr()
    assert main(["eval", str(tiny_policy), "--vs", "half", "--suite", "cheap.yaml", "--run-dir", "out"]) == 2
    assert (
        "half: an evaluation that has not finished; go on with depo eval MODEL --run-dir half --resume"
        in (capsys.readouterr().err)
    )


def test_two_that_cannot_be_compared_are_refused_before_anything_is_asked(cheap, tiny_policy, capsys):
    assert main(["eval", str(tiny_policy), "--suite", "cheap.yaml", "--run-dir", "done", "--quiet"]) == 0
    suite = (cheap / "cheap.yaml").read_text()
    (cheap / "others.yaml").write_text(suite.replace("  sums: {source", "  others: {source"))
    problems = [{"question": f"{i}*{i}=", "answer": str(i * i)} for i in range(5)]
    (cheap / "squares.jsonl").write_text("".join(json.dumps(one) + "\n" for one in problems))
    (cheap / "squares.yaml").write_text(suite.replace("path: sums.jsonl", "path: squares.jsonl"))
    for name, complaint in (
        ("others", "no benchmark in common"),
        ("squares", "sums has no problem in common"),
    ):
        capsys.readouterr()
        command = ["eval", str(tiny_policy), "--vs", "done", "--suite", f"{name}.yaml", "--run-dir", "out"]
        assert main(command) == 2
        said = capsys.readouterr()
        assert complaint in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert not (cheap / "out").exists()


def test_a_context_of_vllm_that_would_cut_completions_is_refused(cheap, tiny_policy):
    overrides = ["engine=vllm", "vllm.max_model_len=41"]
    suite = load_suite("cheap.yaml", overrides, None, None)
    benchmarks = load_benchmarks(suite, load_tokenizer(str(tiny_policy), suite))
    with pytest.raises(
        UserError, match=r"vllm\.max_model_len: 41 is less .* expected at least \d\d, or null"
    ):
        context_for(str(tiny_policy), suite, benchmarks)
    roomy = load_suite("cheap.yaml", [overrides[0], "vllm.max_model_len=60"], None, None)
    assert context_for(str(tiny_policy), roomy, benchmarks) <= 60
