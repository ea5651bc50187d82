"""Benchmarks are not installed: they are imported from the root of the repository."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "depo"))
sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny_run import make_policy, make_workdir

from benchmarks.__main__ import main
from depo.report.document import Document, Section, Table, Text, plain


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory) -> Path:
    """See ``make_policy``."""
    return make_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture
def workdir(tmp_path, tiny_policy) -> Path:
    """A directory with a data set, a reward of one's own and ``tiny.yaml``; commands run there."""
    return make_workdir(tmp_path, tiny_policy)


@pytest.fixture
def refused(capsys) -> Callable[[Sequence[str]], str]:
    """What a command line says that is bad input: exit status 2 and one line."""

    def said(arguments: Sequence[str]) -> str:
        try:
            status = main(arguments)
        except SystemExit as error:
            status = error.code
        message = capsys.readouterr().err
        assert status == 2, message
        assert message.startswith("error: ")
        assert message.count("\n") == 1
        return message

    return said


@pytest.fixture(scope="session")
def table_of() -> Callable[[Document, str], dict[str, list[Text]]]:
    """The rows of the first table with a column of that name, by what their first cell says."""

    def rows(document: Document, column: str) -> dict[str, list[Text]]:
        found = next(
            block
            for block in document.walk()
            if isinstance(block, Table) and column in map(plain, block.head)
        )
        return {plain(row[0]): list(row) for row in found.rows}

    return rows


@pytest.fixture(scope="session")
def section_of() -> Callable[[Document, str], Document]:
    """The section whose title begins so, as a document of its own."""

    def part(document: Document, title: str) -> Document:
        sections: Iterator[Section] = (block for block in document.walk() if isinstance(block, Section))
        found = next(section for section in sections if plain(section.title).startswith(title))
        return Document(found.title, found.blocks)

    return part
