"""Two evaluations side by side: whose figures they are, and what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from depo.errors import UserError
from depo.evaluation.comparison import compare, comparison_report, notes, told_apart, unlike
from depo.report.document import Table

SUITE = {
    "name": "sums",
    "seed": 0,
    "resamples": 50,
    **dict.fromkeys(("template", "system", "raw", "max_prompt_tokens", "reward", "engine", "dtype")),
    "sampling": {"n": 2},
    "benchmarks": {name: dict.fromkeys(("template", "system", "reward")) for name in "abc"},
}


def problem(key: str, correct: int, n: int = 2) -> dict[str, Any]:
    return {"key": key, "n": n, "correct": correct, "classes": None}


def evaluation(name: str, **benchmarks: list[dict[str, Any]]) -> dict[str, Any]:
    found = {
        benchmark: {"each": each, "pass": {"1": None, "2": None}, "maj": None}
        for benchmark, each in benchmarks.items()
    }
    return {"model": {"name": name}, "suite": SUITE, "benchmarks": found}


@pytest.fixture
def document() -> dict[str, Any]:
    first = evaluation(
        "tiny",
        a=[problem("p", 2), problem("q", 1), problem("unscorable", 0, n=0), problem("mine", 2)],
        b=[problem("x", 0), problem("y", 2)],
        c=[problem("z", 0)],
    )
    second = evaluation(
        "tiny",
        a=[
            problem("p", 1),
            problem("q", 1),
            problem("unscorable", 2),
            problem("yours", 0),
            problem("too", 0),
        ],
        b=[problem("x", 0), problem("y", 1)],
    )
    return compare(first, second, [], ["runs/one", "runs/two"])


def test_the_mean_row_has_both_sides_and_their_difference(document):
    (shown,) = (block for block in comparison_report(document).walk() if isinstance(block, Table))
    assert shown.head[3:5] == ["tiny (one)", "tiny (two)"]
    mean = next(row for row in shown.rows if row[0] == "mean" and row[2] == "avg")
    # a: p and q, 0.75 against 0.5; b: 0.5 against 0.25.
    assert [cell.value for cell in (mean[1], *mean[3:])] == [5, 0.625, 0.375, 0.25]
    assert mean[5].low < 0.25 < mean[5].high
    for row in shown.rows:
        first, second, difference = (cell.value for cell in row[3:])
        assert difference == pytest.approx(first - second), "of the same problems"


def test_what_is_left_out_is_counted(document):
    assert notes(document) == [
        "left out, only tiny (one) has them: c",
        "a: problems left out, which only tiny (one) was asked: 1",
        "a: problems left out, which only tiny (two) was asked: 2",
        "a: problems left out for want of scorable samples on either side: "
        "1 at avg, 1 at pass@1, 1 at pass@2",
    ]


def suite(benchmarks: dict[str, dict[str, Any]], **settings: Any) -> dict[str, Any]:
    """`SUITE` with other settings, and with settings that benchmarks have of their own."""
    own = {name: blank | benchmarks.get(name, {}) for name, blank in SUITE["benchmarks"].items()}
    return SUITE | settings | {"benchmarks": own}


@pytest.mark.parametrize(
    ("first", "second", "lines"),
    [
        (suite({}, template="P"), suite({}, template="P"), []),
        (suite({}, template="P"), suite({}, template="Q"), ["template: 'P' against 'Q'"]),
        (
            suite({"a": {"template": "Q"}}, template="P"),
            suite({}, template="P"),
            ["benchmarks.a.template: 'Q' against 'P'"],
        ),
        (
            suite({"a": {"system": ""}}, system="S"),
            suite({}, system="S"),
            ["benchmarks.a.system: '' against 'S'"],
        ),
        (
            suite({"b": {"reward": {"type": "exact"}}}, reward={"type": "math"}),
            suite({}, reward={"type": "exact"}),
            ["benchmarks.a.reward: {'type': 'math'} against {'type': 'exact'}"],
        ),
        (
            suite({"a": {"template": "R"}, "b": {"template": "R"}}, template="P"),
            suite({"a": {"template": "R"}, "b": {"template": "R"}}, template="Q"),
            [],
        ),
        (suite({"c": {"template": "Q"}}), suite({}), []),
    ],
)
def test_settings_are_compared_as_each_benchmark_of_both_has_them(first, second, lines):
    assert unlike(first, second, ["a", "b"]) == lines


def test_nothing_in_common_is_an_error():
    with pytest.raises(UserError, match="a has no problem in common"):
        compare(evaluation("x", a=[problem("p", 1)]), evaluation("y", a=[problem("q", 1)]), [], ["x", "y"])


@pytest.mark.parametrize(
    ("names", "sides", "shown"),
    [
        (("small", "large"), ("m/small", "m/large"), ("small", "large")),
        (("tiny", "tiny"), ("a/tiny", "b/tiny"), ("tiny (a/tiny)", "tiny (b/tiny)")),
        (("tiny", "tiny"), ("runs/one", "runs/two"), ("tiny (one)", "tiny (two)")),
        (("tiny", "tiny"), ("one", "./one"), ("tiny (first)", "tiny (second)")),
        (
            ("best-policy", "best-policy"),
            ("runs/r1/best/policy", "runs/r2/best/policy"),
            ("best-policy (r1/best/policy)", "best-policy (r2/best/policy)"),
        ),
    ],
)
def test_models_of_the_same_name_are_told_apart(names, sides, shown):
    assert told_apart(names, sides) == shown


def test_a_path_that_is_the_end_of_the_other_is_told_apart():
    first, second = told_apart(("m", "m"), ("/m", "/x/m"))
    assert first != second
    assert Path(second.removeprefix("m (").removesuffix(")")).parts[-2:] == ("x", "m")
