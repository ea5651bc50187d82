"""A module of user functions, good and bad, as a user would have it in the working directory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from depo.reward import Sample

FUNCTIONS = '''
import ctypes, os, subprocess, sys, time
from depo.reward import Score

LOG = os.path.join(os.path.dirname(__file__), "log.txt")

def length(sample):
    return float(len(sample.completion))

def halves(sample):
    return 0.5, sample.completion == sample.reference

def undecided(sample):
    return 0.5, None

def full(sample):
    return Score(0.25, True, components={"style": 0.25})

def by_word(sample):
    """What happens is the completion's choice."""
    word = sample.completion
    if word == "sleep":
        time.sleep(3600)
    if word == "exit":
        os._exit(3)
    if word == "sys.exit":
        sys.exit(4)
    if word == "segfault":
        ctypes.string_at(0)
    if word == "raise":
        raise KeyError("no such answer")
    if word == "nan":
        return float("nan")
    if word == "none":
        return None
    if word == "print":
        print("noise on standard output", flush=True)
    if word == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        with open(LOG, "w") as log:
            log.write(str(child.pid))
        time.sleep(3600)
    if word == "own session":
        child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        with open(LOG, "w") as log:
            log.write(str(child.pid))
        os._exit(3) if sample.reference == "exit" else time.sleep(3600)
    if word == "memory":
        bytearray(3 * 2**30)
    if word == "end":  # the interpreter closes everything, then takes its time
        os.closerange(3, 100)
        time.sleep(0.3)
        os._exit(5)
    if word == "hang in C":
        9 ** (9 ** 9)
    return 1.0

not_callable = 3
'''


@pytest.fixture(scope="session")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directory, on the search path, of a module `functions_of_a_user`."""
    directory = tmp_path_factory.mktemp("functions")
    (directory / "functions_of_a_user.py").write_text(FUNCTIONS)
    sys.path.append(str(directory))
    yield directory
    sys.path.remove(str(directory))


@pytest.fixture
def sample() -> Callable[..., Sample]:
    def make(completion: str, reference: str = "42", tokens: int = 5, max_tokens: int = 100) -> Sample:
        return Sample(completion, reference, tokens, "stop", max_tokens)

    return make
