"""Hangs, crashes and deaths, each against a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from depo import reward

ROOT = Path(__file__).parents[2]
BY_WORD = {"type": "function", "path": "functions_of_a_user:by_word"}

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="workers are POSIX processes")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")


def gone_within(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def pids(pool: reward.VerifierPool) -> list[int]:
    return [worker.process.pid for worker in pool._workers]


@pytest.mark.parametrize(
    ("word", "detail"),
    [
        ("sleep", "timeout after 2 s"),
        ("hang in C", "timeout after 2 s"),
        ("exit", "worker exited with status 3"),
        ("sys.exit", "SystemExit: 4"),
        ("end", "worker exited with status 5"),
        ("memory", "out of memory: more than verification.memory_mb"),
        ("segfault", "worker died of SIGSEGV"),
        ("raise", "KeyError: 'no such answer'"),
        ("none", "returned NoneType; expected a float, (float, bool) or Score"),
    ],
)
def test_only_the_guilty_sample_is_unscorable(functions, sample, word: str, detail: str) -> None:
    words = ["fine"] * 20
    words[3] = words[4] = words[19] = word
    with reward.VerifierPool(BY_WORD, workers=2, timeout=2.0, memory_mb=2048) as pool:
        scores = pool.score([sample(word) for word in words])
        assert [score.correct for score in scores] == [None if each == word else True for each in words]
        assert {score.detail for score in scores if score.correct is None} == {detail}
        assert pool.replaced == (0 if word in ("sys.exit", "raise", "none") else 3)
        assert [score.correct for score in pool.score([sample("fine")] * 3)] == [True] * 3


@pytest.mark.parametrize("workers", [1, 4])
def test_order_and_results_do_not_depend_on_the_number_of_workers(functions, sample, workers: int) -> None:
    samples = [sample("x" * (n % 7) if n % 10 else "") for n in range(101)]
    with reward.VerifierPool(
        {"type": "function", "path": "functions_of_a_user:length", "correct_at": 3}, workers=workers
    ) as pool:
        scores = pool.score(samples)
    assert [score.value for score in scores] == [len(sample.completion) for sample in samples]
    assert [score.correct for score in scores] == [len(sample.completion) >= 3 for sample in samples]


def test_math_scores_are_identical_with_one_and_four_workers(sample) -> None:
    answers = [r"\frac{%d}{7}", r"\{%d, 2, x\}", r"x^2 + %d", r"%d < x", r"(%d, 1)", r"\sqrt{%d}"]
    samples = [sample(rf"\boxed{{{a % i}}}", a % (i % 3)) for i in range(5) for a in answers]
    results = []
    for workers in (1, 4):
        with reward.VerifierPool({"type": "math"}, workers=workers, timeout=20) as pool:
            results.append(pool.score(samples))
    assert results[0] == results[1]
    assert {score.correct for score in results[0]} == {True, False}


def test_exact_matches_need_no_process(sample) -> None:
    pool = reward.VerifierPool({"type": "exact"}, workers=2)
    scores = pool.score([sample(str(n), str(n % 2)) for n in range(512)])
    assert [score.correct for score in scores[:3]] == [True, True, False]
    assert pids(pool) == []


def test_a_weighted_sum_is_inline_only_if_all_its_parts_are(sample) -> None:
    exact, overlong = {"reward": {"type": "exact"}}, {"reward": {"type": "overlong", "buffer": 3}}
    pattern = {"reward": {"type": "format", "pattern": "(a+)+b"}}
    with reward.VerifierPool({"type": "weighted", "parts": [exact, overlong]}) as pool:
        pool.score([sample("42")])
        assert pids(pool) == []
    with reward.VerifierPool({"type": "weighted", "parts": [exact, pattern]}, timeout=1.0) as pool:
        runaway, fine = pool.score([sample("a" * 50), sample("ab")])
        assert len(pids(pool)) == 2
    assert (runaway.correct, runaway.detail) == (None, "timeout after 1 s")
    assert fine.components == {"exact": 0.0, "format": 1.0}


def test_huge_completions_pass_through(functions, sample) -> None:
    spec = {"type": "function", "path": "functions_of_a_user:length"}
    with reward.VerifierPool(spec, workers=2) as pool:
        scores = pool.score([sample("😀" * 1_000_000)] * 10)
    assert [score.value for score in scores] == [1_000_000.0] * 10


def test_no_samples_need_no_worker(functions) -> None:
    with reward.VerifierPool(BY_WORD) as pool:
        assert pool.score([]) == []
        assert pids(pool) == []


def test_a_worker_killed_while_idle_is_replaced_and_costs_no_sample(functions, sample) -> None:
    with reward.VerifierPool(BY_WORD, workers=2) as pool:
        pool.score([sample("fine")] * 4)
        victim = pids(pool)[0]
        os.kill(victim, signal.SIGKILL)
        assert gone_within([victim], 5)
        assert all(score.correct for score in pool.score([sample("fine")] * 4))
        assert victim not in pids(pool)


def test_a_worker_killed_while_starting_is_replaced_and_costs_no_sample(functions, sample) -> None:
    with reward.VerifierPool(BY_WORD, workers=1) as pool:
        pool.start()
        (victim,) = pids(pool)
        os.kill(victim, signal.SIGKILL)
        assert gone_within([victim], 5)
        assert all(score.correct for score in pool.score([sample("fine")] * 4))
        assert victim not in pids(pool)
        assert pool.replaced == 1


def test_workers_that_are_always_killed_while_starting_end_the_call(functions, sample, monkeypatch) -> None:
    monkeypatch.setattr(
        "depo.reward.worker._BOOTSTRAP", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    with (
        reward.VerifierPool(BY_WORD, workers=1) as pool,
        pytest.raises(RuntimeError, match=r"could not start: worker died of SIGKILL"),
    ):
        pool.score([sample("fine")])


def test_what_a_reward_prints_does_not_disturb_the_scores(functions, sample, capfd) -> None:
    with reward.VerifierPool(BY_WORD, workers=1) as pool:
        assert all(score.correct for score in pool.score([sample("print"), sample("fine")]))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "noise on standard output" in captured.err


def test_killing_a_worker_kills_what_its_reward_started(functions, sample) -> None:
    with reward.VerifierPool(BY_WORD, workers=1, timeout=3.0) as pool:
        (score,) = pool.score([sample("child")])
    assert score.detail == "timeout after 3 s"
    assert gone_within([int((functions / "log.txt").read_text())], 5)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="strays are found in /proc")
@pytest.mark.parametrize("ending", ["timeout after 3 s", "worker exited with status 3"])
def test_so_does_what_has_left_for_a_session_of_its_own(functions, sample, ending: str) -> None:
    with reward.VerifierPool(BY_WORD, workers=1, timeout=3.0) as pool:
        (score,) = pool.score([sample("own session", "exit" if "exit" in ending else "")])
    assert score.detail == ending
    assert not alive(int((functions / "log.txt").read_text()))


def test_close_leaves_no_process_and_ends_the_pool(functions, sample) -> None:
    pool = reward.VerifierPool(BY_WORD, workers=2)
    pool.start()
    started = pids(pool)
    assert len(started) == 2
    pool.score([sample("fine")] * 2)
    pool.close()
    pool.close()
    assert all(not Path(f"/proc/{pid}").exists() for pid in started) or not any(map(alive, started))
    with pytest.raises(RuntimeError, match="closed"):
        pool.score([sample("fine")])


def test_two_threads_can_share_a_pool(functions, sample) -> None:
    spec = {"type": "function", "path": "functions_of_a_user:length"}
    values: dict[int, list[float]] = {}
    with reward.VerifierPool(spec, workers=2) as pool:

        def score(length: int) -> None:
            values[length] = [score.value for score in pool.score([sample("x" * length)] * 50)]

        threads = [threading.Thread(target=score, args=(length,)) for length in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert values == {length: [float(length)] * 50 for length in range(1, 5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spec": {"type": "maths"}}, "reward type 'maths' is unknown"),
        ({"spec": {"type": "function", "path": "nowhere_at_all:f"}}, "no module 'nowhere_at_all'"),
        ({"spec": {"type": "exact"}, "workers": 0}, "workers must be at least 1, found 0"),
        ({"spec": {"type": "exact"}, "timeout": 0}, "timeout must be more than 0 seconds, found 0"),
    ],
)
def test_a_bad_spec_is_reported_when_the_pool_is_made(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reward.VerifierPool(**options)


def test_a_worker_that_cannot_start_says_so_and_the_pool_does_not_try_for_ever(
    tmp_path, monkeypatch, sample
) -> None:
    (tmp_path / "only_here.py").write_text(
        "import os\nif 'PYTHONHASHSEED' in os.environ:\n    os._exit(7)\ndef f(sample):\n    return 1.0\n"
    )
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with (
        reward.VerifierPool({"type": "function", "path": "only_here:f"}, workers=1) as pool,
        pytest.raises(RuntimeError, match=r"only_here:f.* could not start: worker exited with status 7"),
    ):
        pool.score([sample("x")])


def test_a_function_that_is_edited_while_workers_judge_by_it_ends_the_call(
    tmp_path, monkeypatch, sample
) -> None:
    module = tmp_path / "edited_by_a_user.py"
    judge = "import os\ndef f(sample):\n    return os._exit(3) if sample.completion == 'exit' else 1.0\n"
    module.write_text(judge)
    monkeypatch.syspath_prepend(tmp_path)
    spec = {"type": "function", "path": "edited_by_a_user:f"}
    with reward.VerifierPool({"type": "weighted", "parts": [{"reward": spec}]}, workers=1) as pool:
        assert pool.score([sample("x")])[0].value == 1.0
        module.write_text(judge.replace("1.0", "0.25"))
        assert pool.score([sample("x")])[0].value == 1.0, "the worker at hand judges as before"
        with pytest.raises(RuntimeError, match=r"edited_by_a_user:f.* has changed since this pool was made"):
            pool.score([sample("exit"), sample("x")])


# ---------------------------------------------------------------- the calling process

DRIVER = """
import sys, threading
from depo.reward import Sample, VerifierPool
pool = VerifierPool({"type": "function", "path": "functions_of_a_user:by_word"}, workers=2, timeout=TIMEOUT)
samples = [Sample(word, "42", 1, "stop", 9) for word in WORDS]
print([score.correct for score in pool.score([Sample("fine", "42", 1, "stop", 9)] * 2)])
print(*[worker.process.pid for worker in pool._workers], flush=True)
print([score.correct for score in pool.score(samples)], flush=True)
"""


def start_driver(functions: Path, words: list[str], timeout: float) -> subprocess.Popen[str]:
    script = DRIVER.replace("WORDS", repr(words)).replace("TIMEOUT", repr(timeout))
    driver = subprocess.Popen(
        [sys.executable, "-"],  # a main module that cannot be imported again
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{functions}"},
    )
    assert driver.stdin is not None
    driver.stdin.write(script)
    driver.stdin.close()
    return driver


def test_a_script_from_standard_input_can_use_a_pool_and_need_not_close_it(functions) -> None:
    driver = start_driver(functions, ["fine", "raise"], timeout=5.0)
    assert driver.stdout is not None
    first, workers, second = driver.stdout.read().splitlines()
    assert driver.wait(timeout=10) == 0
    assert (first, second) == ("[True, True]", "[True, None]")
    assert gone_within([int(pid) for pid in workers.split()], 5)


@pytest.mark.parametrize("word", ["sleep", "hang in C"])
def test_workers_end_when_the_caller_is_killed_even_if_they_are_stuck(functions, word: str) -> None:
    driver = start_driver(functions, [word], timeout=2.0)
    assert driver.stdout is not None
    driver.stdout.readline()
    workers = [int(pid) for pid in driver.stdout.readline().split()]
    time.sleep(0.3)  # one is now stuck, the other idle
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert len(workers) == 2
    assert gone_within(workers, 10)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_reaches_the_caller_and_the_pool_stays_usable(functions, sample) -> None:
    with reward.VerifierPool(BY_WORD, workers=2, timeout=60.0) as pool:
        pool.score([sample("fine")] * 2)
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            pool.score([sample("sleep")])
        assert [score.correct for score in pool.score([sample("fine"), sample("none")])] == [True, None]
