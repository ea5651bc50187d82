"""Registries against real installed metadata: a distribution written to a directory on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from depo.plugins import load

BUILT_IN = {"ours": "math:sqrt", "broken": "math:no_such_function"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install a distribution that registers the given "name = value" lines in the group ``test.group``."""

    def write(*lines: str, package: str = "theirs") -> None:
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(["[test.group]", *lines]) + "\n")

    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return write


def test_built_in_and_registered_objects_are_found_by_name(install) -> None:
    install("theirs = math:floor", "ours = math:sqrt")  # one object twice is no conflict
    assert load("test.group", BUILT_IN, "ours")(9.0) == 3.0
    assert load("test.group", BUILT_IN, "theirs")(2.5) == 2


def test_an_unknown_name_lists_the_known_ones(install) -> None:
    install("theirs = math:floor")
    with pytest.raises(ValueError, match=r"'their' in the group test\.group; known: broken, ours, theirs"):
        load("test.group", BUILT_IN, "their")


def test_a_name_that_stands_for_two_objects_is_refused(install) -> None:
    install("ours = math:floor")
    with pytest.raises(ValueError, match=r"'ours' is registered more than once in .*: math:floor, math:sqrt"):
        load("test.group", BUILT_IN, "ours")


def test_what_cannot_be_imported_is_named(install) -> None:
    install("gone = no_such_package_of_theirs:Thing")
    with pytest.raises(ValueError, match=r"no_such_package_of_theirs:Thing cannot be loaded"):
        load("test.group", BUILT_IN, "gone")
    with pytest.raises(ValueError, match="math:no_such_function cannot be loaded"):
        load("test.group", BUILT_IN, "broken")
