"""How a failure is told that a real Ray actor raised, as the learner's and the engines' do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from depo.errors import UserError, report_failure
from depo.rollout.engine import WeightSyncError


@ray.remote(num_cpus=0)
class Failing:
    """Raises the way the learner's and the engines' actors do."""

    def call(self, error: Exception) -> None:
        raise error

    def stream(self, error: Exception) -> Iterator[int]:
        yield 1
        raise error


@pytest.fixture(scope="module")
def failing(cluster: None) -> Any:
    return Failing.remote()


def in_method(failing: Any, error: Exception) -> None:
    ray.get(failing.call.remote(error))


def in_stream(failing: Any, error: Exception) -> None:
    for reference in failing.stream.options(num_returns="streaming").remote(error):
        ray.get(reference)


@pytest.mark.parametrize("raising", [in_method, in_stream])
def test_a_user_error_in_an_actor_is_still_one_line_and_status_2(
    failing: Any, capsys: pytest.CaptureFixture[str], raising: Callable[[Any, Exception], None]
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Ray's wrappers have no common base but RayError
        raising(failing, UserError("policy.model: x has no tokenizer"))
    capsys.readouterr()
    assert report_failure(caught.value, None) == 2
    assert capsys.readouterr().err == "error: policy.model: x has no tokenizer\n"


def test_another_error_in_an_actor_is_named_as_it_was_raised(
    failing: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DEPO_TRACEBACK", raising=False)
    with pytest.raises(ray.exceptions.RayTaskError) as caught:
        in_method(failing, WeightSyncError("off by 3.2 nats"))
    capsys.readouterr()
    assert report_failure(caught.value, tmp_path) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: WeightSyncError: off by 3.2 nats"
    assert "in call" in (tmp_path / "error.log").read_text()  # where in the actor it was raised
