"""How tests are spread over processes, and fixtures for what tests cannot carry along: real data and models.

A file's tests run in one process, so its fixtures are made once. Whatever needs Ray runs in one process too;
vLLM's engines have another, beside the runs.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: two processes share two cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A machine with other work to do is no defect; what 40 examples miss, those of another day find.
settings.register_profile("depo", deadline=None, max_examples=40)
settings.load_profile("depo")

PROCESSES = 2
LARGEST_FIRST = (
    "ray",
    "estimators",
    "depo/learner",
    "depo/moe",
    "depo/evaluation",
    "test_code_quality",
    "depo/test_cli",
)
"""Groups, by the beginning of their names, that would be waited for if they began last."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`, the default: tests named by file run in this process, which starts at once."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist reads it
    named = [Path(argument.split("::")[0]) for argument in config.args]
    return 0 if config.option.collectonly or all(path.is_file() for path in named) else PROCESSES


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """torch, transformers and Ray make a million objects that stay. Looking through them again and again is a
    fifth of the time that importing takes, and half a second of every full collection afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries complain in the end that their objects were never freed


@pytest.hookimpl(tryfirst=True)  # before -m selects and pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    without_vllm = find_spec("vllm") is None
    for item in items:
        if item.get_closest_marker("vllm") and without_vllm:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed"))
        fixtures = getattr(item, "fixturenames", ())
        if {"test_data", "smollm2", "minilm"} & set(fixtures):
            item.add_marker("assets")
        if item.get_closest_marker("xdist_group") is None:
            ray = "ray of vLLM" if item.path.parent.name == "vllm" else "ray"
            item.add_marker(pytest.mark.xdist_group(ray if "cluster" in fixtures else group_of(item.path)))
    items.sort(key=rank)


def group_of(file: Path) -> str:
    return file.relative_to(Path(__file__).parent).with_suffix("").as_posix()


def rank(item: pytest.Item) -> int:
    """Place of the test's group in LARGEST_FIRST; the others keep their order behind."""
    marker = item.get_closest_marker("xdist_group")
    group = marker.args[0] if marker else ""
    places = [place for place, begins in enumerate(LARGEST_FIRST) if group.startswith(begins)]
    return min(places, default=len(LARGEST_FIRST))


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


@pytest.fixture(autouse=True)
def messages_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What tests look for in a message may not be parted by the end of a line. `finished` is printed as a
    user sees it."""
    monkeypatch.setattr("depo.errors.WIDTH", 10_000)
