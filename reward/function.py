"""A user's own function as a reward, by import path ``package.module:function``."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

from reward.base import Sample, Score, checked, describe, unscorable


class FunctionReward:
    """Calls ``f(sample)``, which returns a float, a pair (float, correct), or a Score.

    A plain float counts as correct from ``correct_at`` on. None for ``correct`` makes the sample unscorable,
    and so does an exception that the function raises, with "TypeName: message" as detail. Modules of the
    working directory can be imported; installed packages of the same name come first.

    Raises ``ValueError``, one line, when the path does not lead to a function.
    """

    def __init__(self, path: str, correct_at: float = 1.0) -> None:
        self._function = import_function(path)
        self.version = source_of(path)
        self._correct_at = correct_at

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [self._score(sample) for sample in samples]

    def _score(self, sample: Sample) -> Score:
        try:
            return self._as_score(self._function(sample))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's function may raise anything
            return unscorable(describe(error))

    def _as_score(self, result: Any) -> Score:
        if isinstance(result, Score):
            return checked(result)
        if isinstance(result, SupportsFloat):
            value = float(result)
            return checked(Score(value, correct=value >= self._correct_at))
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], SupportsFloat):
            value, correct = result
            if correct is None or correct != correct:
                return unscorable(f"returned {correct} for correct")
            return checked(Score(float(value), correct=bool(correct)))
        return unscorable(f"returned {type(result).__name__}; expected a float, (float, bool) or Score")


def source_of(path: str) -> str:
    """SHA-256 (hex) of the file that an imported function's module came from; empty where there is none."""
    file = getattr(sys.modules[path.partition(":")[0]], "__file__", None)
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except OSError:  # inside of an archive
        return ""


def import_function(path: str) -> Callable[[Sample], Any]:
    """The function at ``package.module:function``. Raises ``ValueError``, one line, when there is none."""
    module_name, colon, name = path.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"reward function: path {path!r} must look like package.module:function")
    # `python -m` and notebooks have the working directory on sys.path, console scripts do not. At the end,
    # so that a directory called `datasets` does not hide the package of that name from the rest of the run.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ValueError(
                f"reward function: path {path!r}: no module {module_name!r} in {os.getcwd()} or on sys.path"
            ) from error
        raise ValueError(f"reward function: path {path!r}: importing it failed: {error}") from error
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything
        raise ValueError(f"reward function: path {path!r}: importing it failed: {describe(error)}") from error
    for attribute in name.split("."):
        if not hasattr(target, attribute):
            raise ValueError(f"reward function: path {path!r}: module {module_name!r} has no {name!r}")
        target = getattr(target, attribute)
    if not callable(target):
        raise ValueError(f"reward function: path {path!r} is a {type(target).__name__}, not a function")
    function: Callable[[Sample], Any] = target
    return function
