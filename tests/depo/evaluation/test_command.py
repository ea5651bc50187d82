"""``depo eval`` as a user runs it, on an untrained tiny policy: what it writes, resumes and refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tiny_run import depo_command, make_workdir

from depo.cli import main
from depo.evaluation.report import eval_report
from depo.report.document import Table, to_markdown

# Three rewards: one of the user's own, equality of text, and math-verify in worker processes.
SUITE = """\
name: sums
raw: true
max_prompt_tokens: 16
reward: {type: function, path: "even_reward:judge"}
sampling: {n: 6, temperature: 1.0, max_new_tokens: 5}
dtype: float32
threads: 1
resamples: 50
verification: {workers: 1, timeout: 20}
benchmarks:
  even: {source: {type: file, path: sums.jsonl, limit: 40}}
  exact: {source: {type: file, path: sums.jsonl, limit: 15}, reward: {type: exact}}
  mathy: {source: {type: file, path: sums.jsonl, limit: 8}, reward: {type: math}}
"""


COUNTS = {"even": 40, "exact": 15, "mathy": 8}
CHEAP = "benchmarks={even: {source: sums.jsonl}, exact: {source: sums.jsonl, reward: exact}}"
"""No mathematics: its workers take seconds to start."""


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_policy: Path) -> tuple[Path, str]:
    """A working directory with suite, data and a finished evaluation in ``out``; and what that printed."""
    workdir = make_workdir(tmp_path_factory.mktemp("eval"), tiny_policy)
    (workdir / "sums.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(workdir)
        assert evaluate(tiny_policy, "--run-dir", "out", "--json", "copy/results.json") == 0
    return workdir, printed.getvalue()


@pytest.fixture
def here(base, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(base[0])
    return base[0]


def unseen(problems: int) -> float:
    """The share of problems of another kind that none of so many seen ones rules out, at 95 %."""
    return 1 - 0.025 ** (1 / problems)


def evaluate(tiny_policy: Path, *arguments: str) -> int:
    return main(["eval", str(tiny_policy), "--suite", "sums.yaml", "--quiet", *arguments])


def numbers(directory: Path) -> dict:
    """What must come out again: the figures, without how and when they were made."""
    document = json.loads((directory / "results.json").read_text())
    return {name: document[name] for name in ("model", "benchmarks", "mean", "estimator")}


def samples(directory: Path) -> list[dict]:
    rows = [
        row
        for file in sorted((directory / "samples").glob("*.parquet"))
        for row in pq.read_table(file).to_pylist()
    ]
    return sorted(rows, key=lambda row: (row["benchmark"], row["key"], row["sample_index"]))


def test_it_writes_what_the_documentation_promises(base, here):
    printed = base[1]
    assert all(title in printed for title in ("avg@6", "pass@6", "maj@6"))
    assert "\x1b[" not in printed
    document = json.loads((here / "out/results.json").read_text())
    assert json.loads((here / "copy/results.json").read_text()) == document
    for name in ("coverage", "length"):
        for suffix, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
            picture = (here / f"out/results_{name}{suffix}").read_bytes()
            assert picture.startswith(begins)
            assert len(picture) > 1000
    markdown = (here / "out/results.md").read_text()
    assert str(here) not in markdown + (here / "out/results.json").read_text(), "paths are nobody's business"
    assert document["provenance"]["versions"]["python"]

    # The figures follow from the rows on disk, added up independently.
    rows = samples(here / "out")
    assert len(rows) == 6 * sum(COUNTS.values())
    for name, problems in COUNTS.items():
        mine = [row for row in rows if row["benchmark"] == name]
        one = document["benchmarks"][name]
        assert one["problems"] == problems
        assert one["samples"] == len(mine) == 6 * problems
        assert one["avg"][0] == pytest.approx(sum(row["correct"] for row in mine) / len(mine))
        solved = {row["key"] for row in mine if row["correct"]}
        assert one["pass"]["6"][0] == pytest.approx(len(solved) / problems)
        assert one["pass"]["1"][0] == pytest.approx(one["avg"][0])
        assert one["truncated"][0] == pytest.approx(
            sum(r["finish_reason"] == "length" for r in mine) / len(mine)
        )
        assert one["mean_tokens"][0] == pytest.approx(sum(row["tokens"] for row in mine) / len(mine))
        assert len({(row["key"], row["sample_index"]) for row in mine}) == len(mine)
    even = document["benchmarks"]["even"]
    assert 0 < even["avg"][1] < even["avg"][0] < even["avg"][2] < 1
    assert even["maj"] is None, "a reward of one's own says nothing about equal answers"
    assert document["benchmarks"]["mathy"]["vote"] == "math-verify"


@pytest.mark.slow
def test_a_seed_gives_the_same_numbers_with_any_number_of_workers(here, tiny_policy):
    assert evaluate(tiny_policy, "--run-dir", "four", "verification.workers=4") == 0
    assert samples(here / "out") == samples(here / "four")
    assert numbers(here / "out") == numbers(here / "four")


@pytest.mark.slow
def test_after_kill_9_resume_repeats_no_sample_and_gives_the_same_numbers(here, tiny_policy):
    arguments = ["--suite", "sums.yaml", CHEAP, "--n", "16", "transformers.batch_size=8", "--run-dir"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        depo_command("eval", str(tiny_policy), *arguments, "killed"),
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    parts, deadline = here / "killed/samples", time.monotonic() + 240
    while not list(parts.glob("part_*.parquet")):
        assert process.poll() is None, "it must not have finished"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = samples(here / "killed")
    assert 0 < len(before) < 16 * 240, "killed half-way"
    files = {file: file.stat().st_mtime_ns for file in parts.glob("part_*.parquet")}

    again = ["eval", str(tiny_policy), "--quiet", *arguments]
    assert main([*again, "killed"]) == 2, "refused without --resume"
    assert samples(here / "killed") == before, "and nothing lost"
    assert main([*again, "killed", "--resume"]) == 0
    assert {file: file.stat().st_mtime_ns for file in files} == files, "what was there stays as it was"
    after = samples(here / "killed")
    assert len(after) == len({(r["benchmark"], r["key"], r["sample_index"]) for r in after}) == 16 * 240

    assert main([*again, "undisturbed"]) == 0
    undisturbed = samples(here / "undisturbed")
    assert [row["completion"] for row in after] == [row["completion"] for row in undisturbed]
    assert numbers(here / "killed") == numbers(here / "undisturbed")


def test_a_resumed_evaluation_may_draw_more_but_nothing_else(here, tiny_policy, capsys):
    (here / "gone.jsonl").write_text((here / "sums.jsonl").read_text())
    only = "benchmarks={even: {source: {type: file, path: gone.jsonl, limit: 20}}}"
    assert evaluate(tiny_policy, "--run-dir", "growing", "--n", "2", only) == 0
    few = samples(here / "growing")
    (here / "gone.jsonl").unlink()  # the problems are kept with the evaluation
    more = ["eval", str(tiny_policy), "--run-dir", "growing", "--resume", "--quiet"]
    assert main([*more, "--n", "4"]) == 0
    rows = samples(here / "growing")
    assert len(rows) == 2 * len(few)
    assert [row for row in rows if row["sample_index"] < 2] == few
    assert json.loads((here / "growing/results.json").read_text())["last_session"]["samples"] == len(few)

    capsys.readouterr()
    assert main([*more, "--n", "3"]) == 2
    assert "sampling.n 3 is less than the 4" in capsys.readouterr().err
    assert main([*more, "sampling.temperature=0.5"]) == 2
    assert (
        "--resume: sampling.temperature was 1.0, now 0.5; what growing/suite.yaml says"
        in capsys.readouterr().err
    )


def test_two_evaluations_are_compared_by_problem(here, tiny_policy, capsys):
    assert evaluate(tiny_policy, "--run-dir", "cool", "sampling.temperature=0.3", CHEAP) == 0
    capsys.readouterr()
    assert main(["eval", "out", "--vs", "cool", "--run-dir", "ab"]) == 0
    assert "note: the two differ in sampling.temperature: 1.0 against 0.3" in capsys.readouterr().out
    document = json.loads((here / "ab/comparison.json").read_text())
    first, second = numbers(here / "out"), numbers(here / "cool")
    assert list(document["benchmarks"]) == ["even", "exact"], "those that both have"
    for name in document["benchmarks"]:
        found = document["benchmarks"][name]["avg"]
        by_key = {one["key"]: one["correct"] / one["n"] for one in second["benchmarks"][name]["each"]}
        differences = [
            one["correct"] / one["n"] - by_key[one["key"]] for one in first["benchmarks"][name]["each"]
        ]
        assert found["difference"][0] == pytest.approx(sum(differences) / len(differences))
        assert found["first"] == pytest.approx(first["benchmarks"][name]["avg"][0])
    for idle in (["--only", "even"], ["--n", "64"], ["no.such.key=3"], ["--suite", "nonsense"]):
        assert main(["eval", "out", "--vs", "cool", "--run-dir", "idle", *idle]) == 2
        said = capsys.readouterr().err
        assert "finished evaluation" in said
        assert said.count("\n") == 1
    assert main(["eval", "out", "--vs", "out", "--json", "aa.json"]) == 0
    itself = json.loads((here / "aa.json").read_text())["benchmarks"]["even"]["pass@6"]["difference"]
    assert itself == pytest.approx([0.0, -unseen(40), unseen(40)]), "40 ties do not make all problems ties"


def test_a_model_against_a_finished_evaluation_takes_its_suite(here, tiny_policy):
    assert evaluate(tiny_policy, "--run-dir", "small", "--n", "2", CHEAP) == 0
    assert main(["eval", str(tiny_policy), "--vs", "small", "--run-dir", "versus", "--quiet"]) == 0
    document = json.loads((here / "versus/comparison.json").read_text())
    difference = document["benchmarks"]["even"]["avg"]["difference"]
    assert difference == pytest.approx([0.0, -unseen(120), unseen(120)]), "same model, same seeds"
    assert (here / "versus/first/results.json").exists()
    assert not (here / "versus/second").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--suite", "mth"], "--suite mth: no such suite; did you mean math? known: aime, math, mgsm"),
        ([], "--suite is missing: which benchmarks? For example --suite math"),
        (["--suite", "sums.yaml", "k=[8]"], "k: pass@8 needs at least 8 samples a problem, sampling.n is 6"),
        (["--suite", "sums.yaml", "k=[]"], "command line: k: must have at least 1 entries, found 0"),
        (["--suite", "sums.yaml", "--n", "0"], "command line: sampling.n: must be at least 1, found 0"),
        (["--suite", "list.yaml"], "list.yaml: must hold keys and values, found list"),
        (
            ["--suite", "sums.yaml", "--json", "sums.jsonl/out.json"],
            "--json sums.jsonl/out.json: sums.jsonl is a file, so nothing can lie below it",
        ),
        (
            ["--suite", "sums.yaml", "--run-dir", "sums.jsonl/out"],
            "--run-dir sums.jsonl/out: sums.jsonl is a file",
        ),
        (["--vs", "odd"], "odd/results.json: not the results of depo eval"),
        (
            ["--suite", "sums.yaml", "smapling.n=2"],
            "command line: smapling: unknown key; did you mean sampling",
        ),
        (["--suite", "sums.yaml", "nonsense"], "'nonsense' is not an override; write key=value"),
        (
            ["--suite", "sums.yaml", "--only", "exact,odd"],
            "--only odd: not in suite sums, which has even, exact",
        ),
        (
            ["--suite", "sums.yaml", "benchmarks.even.source.columns.answer=gold"],
            "benchmarks.even.source.columns.answer: no column 'gold'; sums.jsonl has question, answer",
        ),
        (
            ["--suite", "sums.yaml", "benchmarks.even.source.where={lang: sw}"],
            "benchmarks.even.source.where: no column 'lang'; sums.jsonl has question, answer",
        ),
        (
            ["--suite", "sums.yaml", "benchmarks.even.source.where={answer: none}"],
            "benchmarks.even.source.where: no row of sums.jsonl has answer 'none'",
        ),
        (["--suite", "sums.yaml", "benchmarks.even.source=void.jsonl"], "void.jsonl is empty"),
        (
            ["--suite", "sums.yaml", "benchmarks.even.source=blank.jsonl"],
            "benchmarks.even.source: blank.jsonl holds no rows",
        ),
        (
            ["--suite", "sums.yaml", "raw=false"],
            "raw: the model's tokenizer has no chat template; set raw=true",
        ),
        (["--suite", "sums.yaml", "--resume"], "--resume needs --run-dir"),
        (["--suite", "sums.yaml", "--run-dir", "full"], "--run-dir full: is not empty; add --resume"),
        (["--suite", "sums.yaml", "--data-dir", "gone"], "--data-dir gone: no such directory"),
        (
            ["--suite", "sums.yaml", "benchmarks.even.reward={type: function, path: 'gone:judge'}"],
            "benchmarks.even.reward: reward function: path 'gone:judge': no module 'gone'",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(here, tiny_policy, capsys, arguments, complaint):
    (here / "void.jsonl").write_text("")
    (here / "blank.jsonl").write_text("\n\n")
    (here / "list.yaml").write_text("- sums.jsonl\n")
    (here / "odd").mkdir(exist_ok=True)
    (here / "odd/results.json").write_text("[]")
    shutil.copy(here / "out/suite.yaml", here / "odd")
    (here / "full").mkdir(exist_ok=True)
    (here / "full/precious.txt").write_text("mine")
    there = sorted(here.iterdir())
    try:
        status = main(["eval", str(tiny_policy), *arguments])
    except SystemExit as exit_:  # argparse's own
        status = exit_.code
    error = capsys.readouterr().err
    assert status == 2
    assert complaint in error
    assert error.count("\n") == 1
    assert sorted(here.iterdir()) == there, "nothing is left in the way of the corrected command"
    assert (here / "full/precious.txt").read_text() == "mine"


def test_what_is_no_model_is_told_in_one_line(here, tiny_policy, capsys):
    shutil.copytree(tiny_policy, here / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    (here / "begun").mkdir()
    (here / "begun/recipe.yaml").write_text("name: begun\n")
    for target, complaint in (
        ("bare", "has no tokenizer"),
        ("gone/away/dir", "gone/away/dir: no such directory, and not a hub id"),
        ("begun", "begun: a training run without policy/ or checkpoints/"),
        ("sums.yaml", "sums.yaml: is a file; name a model directory"),
    ):
        assert main(["eval", target, "--suite", "sums.yaml"]) == 2
        error = capsys.readouterr().err
        assert complaint in error
        assert error.count("\n") == 1


def test_a_broken_suite_file_names_file_line_and_key(here, tiny_policy, capsys):
    suite = yaml.safe_load(SUITE)
    del suite["benchmarks"]["even"]["source"]
    (here / "nosource.yaml").write_text(yaml.safe_dump(suite))
    assert main(["eval", str(tiny_policy), "--suite", "nosource.yaml"]) == 2
    assert "nosource.yaml: benchmarks.even.source: required, but not given" in capsys.readouterr().err


def test_the_report_shows_the_figures_of_its_json_and_is_made_of_them_alone(here):
    result = json.loads((here / "out/results.json").read_text())
    report = eval_report(result)
    assert to_markdown(report, "results") == (here / "out/results.md").read_text()
    main_table = next(block for block in report.walk() if isinstance(block, Table))
    assert main_table.head == ["benchmark", "problems", "avg@6", "pass@6", "maj@6"]
    shown = {row[0]: row[1:] for row in main_table.rows}
    assert list(shown) == [*COUNTS, "mean"]
    for name, (problems, *cells) in shown.items():
        one = result["mean"] if name == "mean" else result["benchmarks"][name]
        assert problems.value == COUNTS.get(name, sum(COUNTS.values()))
        majority = [None] * 3 if one["maj"] is None else one["maj"]["6"]  # a reward of one's own has no vote
        for cell, values in zip(cells, (one["avg"], one["pass"]["6"], majority), strict=True):
            assert [cell.value, cell.low, cell.high] == values


def test_an_engine_that_is_not_installed_is_told_before_anything_is_written(
    here, tiny_policy, capsys, monkeypatch
):
    monkeypatch.setattr("depo.evaluation.command.find_spec", lambda name: None)
    assert main(["eval", str(tiny_policy), "--suite", "sums.yaml", "--engine", "vllm", "--run-dir", "v"]) == 2
    assert "engine: vllm is not installed; pip install" in capsys.readouterr().err
    assert not (here / "v").exists()


def test_a_device_that_is_not_here_is_told_by_its_key(here, tiny_policy, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # also where there is one
    assert evaluate(tiny_policy, "device=cuda", CHEAP, "--run-dir", "gpu") == 2
    assert capsys.readouterr().err == (
        "error: device: cuda is asked for, but torch finds no CUDA device; set cpu or auto\n"
    )
    assert not (here / "gpu").exists()
