"""A command that was refused leaves nothing in the way of the corrected one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from depo.cli import main


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
        (["eval", str(unloadable), *good[2:]], "broken: Error while deserializing header"),
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
