from __future__ import annotations

import math
import subprocess
import sys

import pytest

from depo import reward


def build(name: str, **options: float) -> reward.Reward:
    return reward.build({"type": "function", "path": f"functions_of_a_user:{name}", **options})


def test_a_float_is_correct_from_correct_at_on(sample, functions) -> None:
    scores = build("length", correct_at=3.0).score([sample("ab"), sample("abc"), sample("abcd")])
    assert [(score.value, score.correct) for score in scores] == [(2.0, False), (3.0, True), (4.0, True)]


def test_a_pair_gives_value_and_verdict(sample, functions) -> None:
    scores = build("halves").score([sample("42"), sample("43")])
    assert [(score.value, score.correct) for score in scores] == [(0.5, True), (0.5, False)]


def test_a_pair_without_verdict_is_unscorable_not_wrong(sample, functions) -> None:
    (score,) = build("undecided").score([sample("42")])
    assert (score.correct, score.detail) == (None, "returned None for correct")
    assert math.isnan(score.value)


def test_a_score_is_taken_as_it_is(sample, functions) -> None:
    (score,) = build("full").score([sample("x")])
    assert score == reward.Score(0.25, True, components={"style": 0.25})


@pytest.mark.parametrize(
    ("completion", "detail"),
    [
        ("raise", "KeyError: 'no such answer'"),
        ("nan", "returned the value nan; rewards lie within ±1e+18"),
        ("none", "returned NoneType; expected a float, (float, bool) or Score"),
    ],
)
def test_what_is_no_verdict_is_unscorable_with_the_reason(sample, functions, completion, detail) -> None:
    bad, good = build("by_word").score([sample(completion), sample("fine")])
    assert bad.correct is None
    assert math.isnan(bad.value)
    assert bad.detail == detail
    assert good.correct


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("functions_of_a_user", r"must look like \./FILE\.py:function or package\.module:function"),
        ("functions_of_a_user:", r"must look like \./FILE\.py:function or package\.module:function"),
        ("no_such_module:f", "no module 'no_such_module' in"),
        ("functions_of_a_user.sub:f", "importing it failed|no module"),
        ("functions_of_a_user:nothing", "module 'functions_of_a_user' has no 'nothing'"),
        ("functions_of_a_user:not_callable", "is a int, not a function"),
    ],
)
def test_a_path_that_leads_nowhere_is_one_clear_line(functions, path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        reward.build({"type": "function", "path": path})
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_while_imported_says_with_what(functions) -> None:
    (functions / "broken_module_of_a_user.py").write_text("import missing_dependency_of_a_user\n")
    with pytest.raises(ValueError, match="importing it failed: No module named 'missing_dependency"):
        reward.build({"type": "function", "path": "broken_module_of_a_user:f"})


def test_modules_of_the_working_directory_are_found_here_and_in_workers(
    tmp_path, monkeypatch, sample
) -> None:
    (tmp_path / "only_in_the_working_directory.py").write_text("def f(sample):\n    return 1.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    spec = {"type": "function", "path": "only_in_the_working_directory:f"}
    with reward.VerifierPool(spec, workers=1) as pool:
        assert pool.score([sample("x")])[0].correct


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A working directory with modules of a user."""
    (tmp_path / "estimators.py").write_text("WORTH = 0.25\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "worth_of_a_user.py").write_text("WORTH = 0.75\n")
    judge = "def judge(sample):\n    return WORTH, True\n"
    (tmp_path / "reward.py").write_text("WORTH = 0.5\n" + judge)
    (tmp_path / "mine" / "reward.py").write_text("from worth_of_a_user import WORTH\n" + judge)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    return tmp_path


@pytest.mark.parametrize(
    ("path", "value"), [("./reward.py", 0.5), ("reward.py", 0.5), ("mine/reward.py", 0.75)]
)
def test_a_file_is_imported_by_its_path_whatever_it_is_called(own, sample, path, value) -> None:
    spec = {"type": "function", "path": f"{path}:judge"}
    assert reward.build(spec).score([sample("x")])[0].value == value
    with reward.VerifierPool(spec, workers=1) as pool:
        assert pool.score([sample("x")])[0].value == value
    assert reward.build({**spec, "path": f"{own / path}:judge"}).score([sample("x")])[0].value == value


def test_a_users_modules_called_reward_and_estimators_live_beside_ours(own) -> None:
    """Also where the working directory comes first: ``python -m depo``, Ray's workers, notebooks."""
    program = """
import estimators, reward, sys
import depo.estimators, depo.recipe.schema
from depo.reward import Sample, VerifierPool
assert sys.path[0] == ""
assert (estimators.WORTH, reward.WORTH) == (0.25, 0.5)
with VerifierPool({"type": "function", "path": "reward:judge"}, workers=1) as pool:
    print(pool.score([Sample("x", "x", 1, "stop", 1)])[0].value)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "0.5\n"


def test_two_files_of_one_name_are_two_modules_with_versions_of_their_own(own, sample) -> None:
    one, other = (
        reward.build({"type": "function", "path": f"{path}:judge"})
        for path in ("reward.py", "mine/reward.py")
    )
    assert one.score([sample("x")]) != other.score([sample("x")])
    assert one.version != other.version != ""


def test_a_module_that_another_hides_is_told_with_the_way_out(own) -> None:
    (own / "statistics.py").write_text("def judge(sample):\n    return 1.0\n")
    with pytest.raises(
        ValueError, match=r"has no 'judge'; .*/statistics\.py hides your statistics"
    ) as caught:
        reward.build({"type": "function", "path": "statistics:judge"})
    assert "rename that, or write path: ./statistics.py:FUNCTION" in str(caught.value)


def test_files_that_are_not_there_or_fail_are_told(own) -> None:
    with pytest.raises(ValueError, match=r"no such file: .*/nosuch\.py"):
        reward.build({"type": "function", "path": "./nosuch.py:judge"})
    (own / "broken.py").write_text("1 / 0\n")
    for _ in range(2):  # not a half-imported module the second time
        with pytest.raises(ValueError, match="importing it failed: ZeroDivisionError"):
            reward.build({"type": "function", "path": "./broken.py:judge"})
