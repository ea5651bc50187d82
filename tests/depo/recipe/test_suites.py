"""Evaluation suites: what is shipped loads, and every mistake is told in one line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from depo.errors import UserError
from depo.evaluation.evaluator import load_benchmark
from depo.recipe.schema import Evaluation, FileSource, HubSource
from depo.recipe.suites import SHIPPED, dump_suite, known_suites, load_suite, parse_suite, recipe_suite

SMALL = """\
name: small
benchmarks:
  sums: {source: sums.jsonl}
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A suite and its data in an otherwise empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    (tmp_path / "small.yaml").write_text(SMALL)
    return "small.yaml"


def complaint(name: str, *overrides: str, data_dir: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_suite(name, overrides, data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_four_suites_are_shipped():
    assert {"math", "aime", "mgsm", "reasoning_gym"} <= set(known_suites())
    assert len(load_suite("math").benchmarks) == 5
    assert len(load_suite("mgsm").benchmarks) == 11


@pytest.mark.parametrize("name", [path.stem for path in sorted(SHIPPED.glob("*.yaml"))])
def test_a_shipped_suite_loads_and_reads_back_what_it_dumps(name, tmp_path):
    suite = load_suite(name)
    assert suite.name == name
    (tmp_path / "dumped.yaml").write_text(dump_suite(suite))
    assert parse_suite(tmp_path / "dumped.yaml")[0] == suite


def test_a_suite_can_be_restricted_to_some_of_its_benchmarks():
    assert list(load_suite("math", only=["minerva_math", "gsm8k"]).benchmarks) == ["gsm8k", "minerva_math"]
    with pytest.raises(UserError, match="--only gsm9k: not in suite math, which has gsm8k, math500"):
        load_suite("math", only=["gsm9k"])


def test_overrides_reach_every_key_as_in_recipes(small):
    suite = load_suite(
        small, ["sampling.n=4", "sampling.temperature=0.5", "benchmarks.sums.source.limit=1", "reward=exact"]
    )
    assert suite.sampling.n == 4
    assert suite.benchmarks["sums"].source.limit == 1
    assert suite.reward.type == "exact"
    assert suite.ks == [1, 2, 4]
    assert load_suite(small, ["sampling.n=6", "sampling.temperature=1"]).ks == [1, 2, 4, 6]
    assert load_suite(small, ["benchmarks.sums.source=owner/sums"]).benchmarks["sums"].source == HubSource(
        id="owner/sums"
    )


def test_a_data_directory_replaces_hub_sources_and_no_others(small, tmp_path):
    local = tmp_path / "data" / "eval"
    local.mkdir(parents=True)
    for name in ("aime24", "aime25"):
        (local / f"{name}.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    suite = load_suite("aime", ["benchmarks.aime25.source=sums.jsonl"], tmp_path / "data")
    assert suite.benchmarks["aime24"].source == FileSource(path=local / "aime24.jsonl")
    assert suite.benchmarks["aime25"].source == FileSource(path=Path("sums.jsonl"))


def test_a_slip_in_a_benchmarks_name_is_told_as_such_and_a_new_benchmark_can_be_made(small):
    assert complaint("math", "benchmarks.gsm9k.source.limit=5").startswith(
        "command line: benchmarks.gsm9k: no such benchmark; did you mean gsm8k? "
    )
    assert complaint(small, "benchmarks.other.template=Q {question}") == (
        "command line: benchmarks.other: no such benchmark; small.yaml has sums; "
        "a new one needs benchmarks.other.source=FILE.jsonl"
    )
    made = load_suite(small, ["benchmarks.other.source.limit=1", "benchmarks.other.source=sums.jsonl"])
    assert list(made.benchmarks) == ["sums", "other"]
    whole = load_suite(small, ["benchmarks={other: {source: sums.jsonl}}", "benchmarks.other.source.limit=1"])
    assert list(whole.benchmarks) == ["other"]


def test_what_is_wrong_with_a_local_copy_names_its_own_key(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval/aime24.jsonl").write_text("")
    with pytest.raises(UserError, match=r"benchmarks\.aime24\.local\.path: .* is empty"):
        load_suite("aime", [], tmp_path, ["aime24"])
    (tmp_path / "eval/aime24.jsonl").write_text('{"task": "1+1="}\n')
    suite = load_suite("aime", [], tmp_path, ["aime24"])
    with pytest.raises(UserError, match=r"^benchmarks\.aime24\.local\.columns\.prompt: no column is called"):
        # Any tokenizer will do: the columns are looked for first.
        load_benchmark("aime24", suite.benchmarks["aime24"], suite, SimpleNamespace(chat_template="x"))


def test_mistakes_are_told_in_one_line_with_file_and_key(small, tmp_path):
    assert "known: aime, math, mgsm, reasoning_gym" in complaint("mth")
    assert "did you mean math?" in complaint("mth")
    assert complaint("gone.yaml") == "--suite gone.yaml: no such file"
    assert complaint(small, "samplin.n=3").startswith(
        "command line: samplin: unknown key; did you mean sampling"
    )
    assert "benchmarks.sums.sorce: unknown key" in complaint(small, "benchmarks.sums.sorce=x.jsonl")
    assert "did you mean benchmarks.sums.source?" in complaint(small, "benchmarks.sums.sorce=x.jsonl")
    assert "benchmarks.sums.source.path: no such file: gone.jsonl" in complaint(
        small, "benchmarks.sums.source=gone.jsonl"
    )
    assert "k: pass@4 needs at least 4 samples a problem, sampling.n is 1" in complaint(small, "k=[4]")
    assert "at temperature 0" in complaint(small, "sampling.n=4")
    assert complaint(small, "template=hello") == "command line: template: must contain {question}"
    assert complaint(small, "reward=nonsense").startswith(
        'command line: reward.type: unknown type "nonsense"'
    )
    assert (
        complaint("math", data_dir=tmp_path / "gone") == f"--data-dir {tmp_path / 'gone'}: no such directory"
    )

    assert complaint(small, "reward={type: format, pattern: '('}").startswith(
        "command line: reward: reward format: pattern '(' is no regular expression"
    )

    (tmp_path / "broken.yaml").write_text("name: broken\nbenchmarks: [1\n")
    assert complaint("broken.yaml").startswith("broken.yaml:3: not valid YAML")
    (tmp_path / "none.yaml").write_text("name: none\nbenchmarks: {}\n")
    assert "none.yaml: benchmarks: must have at least 1 entries, found 0" in complaint("none.yaml")
    (tmp_path / "bare.yaml").write_text("name: bare\nbenchmarks: {a: {template: '{question}'}}\n")
    assert complaint("bare.yaml") == "bare.yaml: benchmarks.a.source: required, but not given"
    (tmp_path / "hub.yaml").write_text("name: hub\nbenchmarks: {a: {source: owner/set}}\n")
    assert "benchmarks.a.local: missing" in complaint("hub.yaml", data_dir=tmp_path)


def test_a_reward_that_cannot_judge_a_benchmark_is_refused(small):
    assert complaint("math", "reward=reasoning_gym").endswith(
        "(with reward=reasoning_gym from the command line): reward.type reasoning_gym judges tasks of "
        "reasoning_gym only; benchmarks.gsm8k.source.type is hub"
    )
    tasks = "benchmarks.sums.source={type: reasoning_gym, tasks: [gcd]}"
    assert "reward.type math cannot judge benchmarks.sums.source.type reasoning_gym" in complaint(
        small, tasks
    )
    own = "benchmarks.sums.reward=exact"
    assert "benchmarks.sums.reward.type exact cannot judge benchmarks.sums.source.type" in complaint(
        small, tasks, own, "reward=reasoning_gym"
    )
    assert load_suite(small, [tasks, "benchmarks.sums.reward=reasoning_gym"]).reward.type == "math"


def test_a_buffer_as_long_as_the_completions_is_refused(small):
    overlong = "benchmarks.sums.reward={type: overlong, buffer: 64}"
    assert "benchmarks.sums.reward.buffer 64 must be smaller than sampling.max_new_tokens 64" in complaint(
        small, overlong, "sampling.max_new_tokens=64"
    )
    assert load_suite(small, [overlong, "sampling.max_new_tokens=65"])


@pytest.mark.parametrize(
    ("blocks", "line"),
    [
        ({"suite_data": "gone"}, "evaluation.suite_data gone: no such directory"),
        (
            {"suite_overrides": ["samplin.n=3"]},
            "evaluation.suite_overrides: samplin: unknown key; did you mean sampling?",
        ),
        ({"suite_overrides": ["steps"]}, "evaluation.suite_overrides: 'steps' is not an override; "),
        (
            {"suite_overrides": ["name.x=1"]},
            "evaluation.suite_overrides: name.x: name is a plain value",
        ),
        (
            {"suite_overrides": ["benchmarks.sms.source.limit=1"]},
            "evaluation.suite_overrides: benchmarks.sms: no such benchmark; did you mean sums?",
        ),
        (
            {"suite_overrides": ["k=[4]", "sampling.temperature=1"]},
            "small.yaml (with k=[4] from evaluation.suite_overrides): k: ",
        ),
    ],
)
def test_what_a_recipe_asks_of_its_suite_is_told_by_the_recipes_keys(small, blocks, line):
    with pytest.raises(UserError) as caught:
        recipe_suite(Evaluation.model_validate({"suite": small} | blocks))
    assert str(caught.value).startswith(line)
