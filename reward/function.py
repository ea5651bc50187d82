"""A user's own function as a reward, in a file (``./my_rewards.py:function``) or an importable module."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsFloat

from depo.reward.base import Sample, Score, checked, describe, unscorable


class FunctionReward:
    """Calls ``f(sample)``, which returns a float, a pair (float, correct), or a Score.

    A plain float counts as correct from ``correct_at`` on. None for ``correct`` makes the sample unscorable,
    and so does an exception that the function raises, with "TypeName: message" as detail. ``path`` is
    ``FILE.py:function``, relative to the working directory as all paths of a recipe, or
    ``package.module:function``, where installed packages come before modules of the working directory.

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
    file = getattr(import_place(path.rpartition(":")[0], path), "__file__", None)
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    except OSError:  # inside of an archive
        return ""


def import_function(path: str) -> Callable[[Sample], Any]:
    """The function at ``FILE.py:function`` or ``package.module:function``. Raises ``ValueError``, one line,
    when there is none."""
    place, colon, name = path.rpartition(":")
    if not (place and colon and name):
        raise ValueError(
            f"reward function: path {path!r} must look like ./FILE.py:function or package.module:function"
        )
    target: Any = import_place(place, path)
    for attribute in name.split("."):
        if not hasattr(target, attribute):
            raise ValueError(
                f"reward function: path {path!r}: module {place!r} has no {name!r}{shadowed(place)}"
            )
        target = getattr(target, attribute)
    if not callable(target):
        raise ValueError(f"reward function: path {path!r} is a {type(target).__name__}, not a function")
    function: Callable[[Sample], Any] = target
    return function


def import_place(place: str, path: str) -> ModuleType:
    """The module that ``place`` names: a file (relative to the working directory), or a dotted name."""
    file = Path(place).absolute() if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise ValueError(f"reward function: path {path!r}: no such file: {file}")
    # `python -m` and notebooks have the working directory on sys.path, console scripts do not. At the end,
    # so that a directory called `datasets` does not hide the package of that name from the rest of the run.
    for folder in {os.getcwd()} | ({str(file.parent)} if file else set()):
        if folder not in sys.path and not (folder == os.getcwd() and "" in sys.path):
            sys.path.append(folder)
    try:
        return importlib.import_module(place) if file is None else import_file(file)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(error.name + ".")):
            raise ValueError(
                f"reward function: path {path!r}: no module {place!r} in {os.getcwd()} or on sys.path"
                f"{shadowed(place)}"
            ) from error
        raise ValueError(f"reward function: path {path!r}: importing it failed: {error}") from error
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may raise anything
        raise ValueError(f"reward function: path {path!r}: importing it failed: {describe(error)}") from error


def import_file(file: Path) -> ModuleType:
    """The module in a file, under a name that no package has: it may be called ``math.py``, too."""
    name = f"{file.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # for names that end in .py
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def shadowed(place: str) -> str:
    """For a message: that another module of that name hides the one in the working directory."""
    file = Path(*place.split(".")).with_suffix(".py")
    found = getattr(sys.modules.get(place.partition(".")[0]), "__file__", None)
    if not file.is_file() or found is None or Path(found).absolute() == file.absolute():
        return ""
    return f"; {found} hides your {file}: rename that, or write path: ./{file}:FUNCTION"
