"""Fixtures for what tests cannot carry along: real data and a real model, named by environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("depo", deadline=None)  # a machine with other work to do is no defect
settings.load_profile("depo")


def directory_from_env(variable: str, what: str, must_contain: str) -> Path:
    """The directory a variable names. Unset: skip with the reason. Set but wrong: fail."""
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names {what}")
    path = Path(value).resolve()
    if not (path / must_contain).exists():
        pytest.fail(f"{variable}={value} holds no {must_contain}")
    return path


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The directory of benchmarks, training sets and traces."""
    return directory_from_env("DEPO_TEST_DATA", "the directory of real data sets", "README.md")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Hugging Face format, as `depo fetch smollm2 DIR` writes it."""
    return directory_from_env(
        "DEPO_TEST_SMOLLM2", "a directory made by `depo fetch smollm2 DIR`", "config.json"
    )


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The text encoder all-MiniLM-L6-v2, as `depo fetch minilm DIR` writes it."""
    return directory_from_env(
        "DEPO_TEST_MINILM", "a directory made by `depo fetch minilm DIR`", "config.json"
    )
