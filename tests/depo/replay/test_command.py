"""`depo replay` as a user runs it: tables, JSON, plots, and one line for every mistake."""

import json
import subprocess
import sys
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from depo.cli import main
from depo.errors import UserError
from depo.estimators.mopps import MoppsEstimator
from depo.recipe.schema import Selection
from depo.replay.censored import censored_feedback
from depo.replay.comparison import parse_spec, selection_block

ROOT = Path(__file__).parents[3]


def replay(*arguments: object) -> int:
    return main(["replay", *(str(argument) for argument in arguments)])


QUICK = ("--resamples", 40, "--seeds", 2)


@pytest.fixture
def document(training_file, tmp_path, capsys):
    """The JSON of a replay of two estimators, and what was printed."""
    status = replay(
        training_file, "--estimator", "mopps", "--estimator", "uniform", "--budget", 0.25, *QUICK,
        "--json", tmp_path / "deep" / "out.json", "--plots", tmp_path / "plots",
    )  # fmt: skip
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads((tmp_path / "deep" / "out.json").read_text()), printed.out


def test_json_has_the_documented_form(document, training_file):
    found, printed = document
    assert list(found) == ["trace", "settings", "estimators"]
    assert list(found["estimators"]) == ["mopps", "uniform"]
    full, censored = found["estimators"]["mopps"]["full"], found["estimators"]["mopps"]["censored"]
    assert full.keys() >= {
        "auroc", "auroc_all_wrong", "auroc_all_right", "average_precision", "brier", "brier_skill", "ece",
        "spearman", "false_reject_rate", "by_visits", "reliability", "intervals", "differences",
        "estimator_seconds_per_step",
    }  # fmt: skip
    assert list(full["by_visits"]) == ["0", "1", "2-4", "5+"]
    assert list(full["differences"]) == ["uniform", "smoother (sees the future)"]
    assert full["intervals"]["auroc"][0] < full["auroc"] < full["intervals"]["auroc"][1]
    assert censored.keys() >= {
        "effective_ratio", "starvation", "never_visited", "since_visit_p50", "since_visit_p90",
        "since_visit_p99", "audit_auroc", "audit_brier", "audit_ece", "intervals", "picks_per_step",
    }  # fmt: skip
    settings = found["settings"]
    assert settings["split"] == "odd"
    assert settings["prompts"] == found["trace"]["prompts"] < settings["prompts_in_trace"] == 60
    assert settings["group_size"] == 8
    assert settings["command"].startswith(f"depo replay {training_file} --estimator mopps")
    assert settings["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert f"prompts whose SHA-256 is odd, {settings['prompts']} graded" in printed
    assert found["estimators"]["uniform"]["full"]["spearman"] is None, "JSON has no NaN"
    mirrored = found["estimators"]["uniform"]["full"]["differences"]["mopps"]
    assert mirrored["auroc"] == -full["differences"]["uniform"]["auroc"]
    assert mirrored["auroc_interval"] == [
        -bound for bound in full["differences"]["uniform"]["auroc_interval"][::-1]
    ]


def test_tables_are_plain_text_where_stdout_is_no_terminal(document):
    _, printed = document
    assert "\x1b" not in printed
    assert not set(printed) & set("│┃─━┏")
    assert "Full feedback" in printed
    assert "Censored feedback" in printed
    assert "…" not in printed, "nothing is cut"


def test_plots_are_written(document, tmp_path):
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    labels = ("mopps", "uniform", "smoother_sees_the_future")
    assert names == {"front.png"} | {f"reliability_{label}.png" for label in labels}
    assert all((tmp_path / "plots" / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_several_selectors_give_one_entry_each(training_file, tmp_path):
    out = tmp_path / "out.json"
    slow = "mopps:discount=0.9,prior_successes=0.5"
    status = replay(
        training_file, "--estimator", slow, "--selector", "thompson", "--selector", "uniform", *QUICK,
        "--json", out, "--split", "all",
    )  # fmt: skip
    assert status == 0
    found = json.loads(out.read_text())["estimators"]
    assert list(found) == [f"{slow}+thompson", f"{slow}+uniform"]
    chosen, uniform = (found[name]["censored"] for name in found)
    assert chosen["effective_ratio"] > uniform["effective_ratio"] + 0.1
    assert uniform["never_visited"] == 0
    assert uniform["audit_groups"] == 12 * 15, "uniform picks are all unbiased"


def test_options_of_an_estimator_reach_it(training_file, tmp_path):
    out = tmp_path / "out.json"
    names = ["mopps", "mopps:discount=1.0,prior_successes=0.5,prior_failures=5e-1"]
    arguments = [part for name in names for part in ("--estimator", name)]
    assert replay(training_file, *arguments, *QUICK, "--json", out) == 0
    found = json.loads(out.read_text())["estimators"]
    assert found[names[1]]["full"]["auroc"] > found["mopps"]["full"]["auroc"], "the pass rates stand still"


def test_fitting_on_all_prompts_grades_the_split_alone(training_file, tmp_path):
    figures = []
    for fit_on in ("split", "all"):
        out = tmp_path / f"{fit_on}.json"
        assert replay(training_file, "--estimator", "mopps", *QUICK, "--fit-on", fit_on, "--json", out) == 0
        found = json.loads(out.read_text())
        figures.append((found["trace"]["graded"], found["estimators"]["mopps"]["full"]["auroc"]))
    assert figures[0] == figures[1], "mopps learns nothing about one prompt from another"


def test_a_prior_column_makes_the_first_visit_better_than_chance(training_file, tmp_path):
    out = tmp_path / "out.json"
    assert replay(training_file, "--estimator", "mopps", *QUICK, "--prior", "stale/128", "--json", out) == 0
    assert json.loads(out.read_text())["estimators"]["mopps"]["full"]["by_visits"]["0"]["auroc"] > 0.7


def test_a_count_file_with_one_visit_has_no_censored_replay_and_says_so(parquet, tmp_path, capsys):
    path = parquet(prompt_id=[f"q{i}" for i in range(40)], n=[64] * 40, k_correct=list(range(40)))
    out = tmp_path / "out.json"
    assert replay(path, "--estimator", "mopps", *QUICK, "--json", out) == 0
    assert "Censored replay left out" in capsys.readouterr().out
    assert json.loads(out.read_text())["estimators"]["mopps"]["censored"] is None
    assert replay(path, "--estimator", "mopps", *QUICK, "--visits", 6, "--json", out) == 0
    assert json.loads(out.read_text())["estimators"]["mopps"]["censored"]["effective_ratio"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.parquet", "--estimator", "mopps"], "absent.parquet: no such file or directory"),
        (["TRACE", "--estimator", "bêta"], "no estimator is called 'bêta'; known: "),
        (["TRACE", "--estimator", "mopps:discount=2"], "discount must lie in [0, 1]"),
        (["TRACE", "--estimator", "mopps:decay=0.5"], "does not take these options"),
        (["TRACE", "--estimator", "mopps:0.5"], "expected NAME or NAME:key=value"),
        (["TRACE", "--estimator", "mopps", "--estimator", "mopps"], "--estimator mopps: given twice"),
        (
            ["TRACE", "--estimator", "mopps", "--selector", "greedy-ish"],
            "no selector is called 'greedy-ish'; known: ",
        ),
        (
            ["TRACE", "--estimator", "mopps", "--selector", "thompson:candidates=0"],
            "candidates: Input should be",
        ),
        (
            ["TRACE", "--estimator", "mopps", "--budget", "0"],
            "--budget 0: expected a share of the prompts in (0, 1]",
        ),
        (["TRACE", "--estimator", "mopps", "--budget", "1.5"], "--budget 1.5"),
        (["TRACE", "--estimator", "mopps", "--audit", "-1"], "--audit -1"),
        (["TRACE", "--estimator", "mopps", "--seeds", "0"], "--seeds 0: expected at least 1"),
        (["TRACE", "--estimator", "mopps", "--group-size", "1"], "--group-size 1"),
        (["TRACE", "--estimator", "mopps", "--where", "model"], "expected COLUMN=VALUE"),
        (["TRACE", "--estimator", "mopps", "--prior", "nothing"], "no column 'nothing'"),
        ([".", "--estimator", "mopps"], "not a depo run directory"),
        (["TRACE", "--estimator", "mopps", "--json", "."], "--json .: is a directory"),
        (["TRACE", "--estimator", "mopps", "--plots", "trace.parquet"], "--plots trace.parquet: is a file"),
        (["TRACE"], "the following arguments are required: --estimator"),
        (["TRACE", "--estimator", "mopps", "--wrong"], "unrecognized arguments: --wrong"),
    ],
)
def test_mistakes_are_one_line_and_exit_status_2(
    arguments, message, training_file, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [str(training_file) if argument == "TRACE" else argument for argument in arguments]
    try:
        status = main(["replay", *arguments])
    except SystemExit as stop:  # argparse
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2, printed.err
    assert message in printed.err
    assert printed.err.count("\n") == 1, printed.err


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n": [8] * 40, "k_correct": [[0.25, 0.5]] * 40}, "k_correct holds 0.25; counts are expected"),
        ({"n": [8] * 40, "k_correct": [[1, None]] * 40}, "column 'k_correct' has 40 empty values"),
        ({"n": [1] * 40, "k_correct": [[1, 0]] * 40}, "n is 1; a group needs at least 2 rollouts"),
    ],
)
def test_a_trace_that_cannot_be_replayed_is_one_line_and_exit_status_2(columns, message, parquet, capsys):
    assert replay(parquet(prompt_id=list(range(40)), **columns), "--estimator", "mopps") == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_trace_with_numbers_for_ids_and_chats_for_questions_is_replayed(parquet, tmp_path):
    chat = [{"role": "user", "content": "1 + 1?"}]
    path = parquet(
        prompt_id=list(range(40)), n=[8] * 40, k_correct=[[i % 9, 4] for i in range(40)], question=[chat] * 40
    )
    out = tmp_path / "out.json"
    assert replay(path, "--estimator", "hybrid", *QUICK, "--json", out) == 0
    assert json.loads(out.read_text())["estimators"]["hybrid"]["censored"]["picks_per_step"] > 0


def test_a_split_without_prompts_is_an_error(parquet, capsys):
    even = [key for key in map(str, range(40)) if int(sha256(key.encode()).hexdigest(), 16) % 2 == 0]
    path = parquet(prompt_id=even, n=[8] * len(even), k_correct=[[1, 2]] * len(even))
    assert replay(path, "--estimator", "mopps") == 2
    assert "no prompts in split 'odd'" in capsys.readouterr().err


def test_options_are_read_as_in_a_recipe():
    assert parse_spec("hybrid", "--estimator").options == {}
    spec = parse_spec("x:a=1e-3,b=text,c=[1, 2],d=true,e=null", "--estimator")
    assert spec.options == {"a": 1e-3, "b": "text", "c": [1, 2], "d": True, "e": None}
    with pytest.raises(UserError, match="given twice"):
        parse_spec("x:a=1,a=2", "--estimator")


def test_every_selector_of_a_recipe_can_be_replayed(make_trace):
    rng = np.random.default_rng(0)
    trace = make_trace(rng.integers(0, 9, size=(30, 4)).tolist())
    for block in get_args(get_args(Selection)[0]):
        name = block.model_fields["type"].default
        text = "plugin:name=thompson" if name == "plugin" else name
        selection = selection_block(parse_spec(text, "--selector"), 30, 0.1)
        assert (selection.refill, selection.min_window) == (False, 0)
        found = censored_feedback(trace, MoppsEstimator, selection, 0.3, 8, seed=0)
        assert 0 <= found["effective_ratio"] <= 1


def test_replay_imports_neither_torch_nor_ray(training_file):
    program = (
        "import sys; from depo.cli import main\n"
        f"assert main(['replay', {str(training_file)!r}, '--estimator', 'mopps', '--seeds', '1']) == 0\n"
        "print([name for name in ('torch', 'ray', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("option", ["--json", "--plots"])
def test_a_place_where_nothing_can_be_written_is_told_before_the_replay(training_file, option, capsys):
    assert replay(training_file, "--estimator", "mopps", option, "/proc/out.json") == 2
    assert f"{option} /proc/out.json: nothing can be made in /proc" in capsys.readouterr().err


def test_a_damaged_file_is_told_in_one_line(training_file, tmp_path, capsys):
    damaged = bytearray(training_file.read_bytes())
    damaged[4:60] = b"\xff" * 56  # the header of its first page
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    assert replay(tmp_path / "damaged.parquet", "--estimator", "mopps") == 2
    said = capsys.readouterr().err
    assert "damaged.parquet: not a Parquet file" in said
    assert said.count("\n") == 1


def test_a_replay_says_beforehand_how_long_it_takes_and_more_seeds_take_longer(
    training_file, capsys, monkeypatch
):
    ticks = count()  # a clock on which every pilot takes a second
    monkeypatch.setattr("depo.replay.comparison.perf_counter", lambda: next(ticks))
    told = []
    for seeds in ("1", "3"):
        assert main(["replay", str(training_file), "--estimator", "mopps", "--seeds", seeds]) == 0
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "this takes about" in line]
        told.append(line)
    # Full feedback and one replay a seed, each of a second for the first step and no more for the others.
    assert told == [f"this takes about 0:00:0{one} (h:mm:ss)" for one in (2, 4)]
