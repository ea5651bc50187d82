"""``depo init``: a recipe that `depo train --dry-run` takes, for tables as people have them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from depo.cli import main
from depo.recipe.loading import load_recipe
from depo.recipe.schema import ExactReward, FileSource, FunctionReward, HubSource, MathReward

TICKETS = [
    {"id": 1234567890, "ticket": "My parcel has not arrived.", "team": "shipping"},
    {"id": 1234567891, "ticket": "I was charged twice.", "team": "billing"},
] * 10
SUMS = [
    {"problem": f"What is {i} + {i}?", "notes": "a long remark " * 9, "result": str(2 * i)} for i in range(40)
]


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open("tickets.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, TICKETS[0])
        writer.writeheader()
        writer.writerows(row | {"ticket": f"{i} {row['ticket']}"} for i, row in enumerate(TICKETS))
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))


def test_a_csv_becomes_a_recipe_that_a_dry_run_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine.yaml", "--model", "models/none", "--data", "tickets.csv"]) == 0
    shown = capsys.readouterr()
    assert "question: column ticket; in the first row: '0 My parcel" in shown.err
    assert "answer: column team; in the first row: 'shipping'" in shown.err
    assert "depo train mine.yaml --dry-run" in shown.out
    recipe = load_recipe("mine.yaml")
    assert isinstance(recipe.data.train, FileSource)
    assert (recipe.data.train.columns.prompt, recipe.data.train.columns.answer) == ("ticket", "team")
    assert isinstance(recipe.reward, ExactReward), "answers without digits"
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "tickets.csv: 18 prompts to train on, 2 held out" in " ".join(out.split())


def test_usual_names_come_before_lengths_and_numbers_make_it_mathematics(
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--model", "organisation/model", "--data", "sums.jsonl", "--gpus", "4"]
    assert main(["init", "mine.yaml", *flags]) == 0
    recipe = load_recipe("mine.yaml")
    assert (recipe.data.train.columns.prompt, recipe.data.train.columns.answer) == ("problem", "result")
    assert isinstance(recipe.reward, MathReward)
    assert recipe.data.template == "{question}\n\nPut your final answer in \\boxed{}."
    assert (recipe.rollout.engine, recipe.rollout.vllm.workers) == ("vllm", 3)
    assert main(["train", "mine.yaml", "--dry-run"]) == 0
    assert "36 prompts to train on, 4 held out" in " ".join(capsys.readouterr().out.split())


def test_flags_decide_and_a_hub_id_is_not_read() -> None:
    flags = [
        "--data",
        "organisation/problems",
        "--answer",
        "label",
        "--reward",
        "./mine.py:right",
        "--gpus",
        "1",
    ]
    assert main(["init", "mine.yaml", "--model", "organisation/model", *flags]) == 0
    recipe = load_recipe("mine.yaml")
    assert isinstance(recipe.data.train, HubSource)
    assert (recipe.data.train.columns.prompt, recipe.data.train.columns.answer) == (None, "label")
    assert isinstance(recipe.reward, FunctionReward)
    assert recipe.resources.learner_gpus == 0


def test_on_a_terminal_what_is_left_out_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: Iterator[str] = iter(["organisation/model", "sums.jsonl", "exact", ""])
    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: asked.append(prompt) or next(answers))
    assert main(["init", "mine.yaml"]) == 0
    assert [prompt.split()[0] for prompt in asked] == ["model,", "data,", "reward:", "number"]
    assert "[math]" in asked[2]
    recipe = load_recipe("mine.yaml")
    assert isinstance(recipe.reward, ExactReward)
    assert recipe.rollout.engine == "transformers"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mine.txt"], "ends in .yaml"),
        (["mine.yaml", "--data", "sums.jsonl"], "--model is missing"),
        (["mine.yaml", "--model", "a/b", "--data", "none.csv"], "--data: file none.csv does not exist"),
        (["mine.yaml", "--model", "a/b", "--data", "sums.jsonl", "--answer", "x"], "--answer: no column 'x'"),
        (["mine.yaml", "--model", "a/b", "--data", "sums.jsonl", "--reward", "luck"], "must be math"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not Path("mine.yaml").exists()
