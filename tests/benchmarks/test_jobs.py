"""Jobs are real processes: small Python modules written for the test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.__main__ import main
from benchmarks.jobs import Job, run_jobs

WRITE = """
import pathlib, sys, time

time.sleep(float(sys.argv[2]))
pathlib.Path(sys.argv[1]).touch()
"""

WAITS = """
import pathlib, sys, time

mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
until = time.monotonic() + 30
while not other.exists():
    assert time.monotonic() < until, "nothing else runs"
    time.sleep(0.02)
"""

# A shell that starts a command in the background makes it ignore SIGINT; the test must not depend on that.
MAIN = """
import signal
from pathlib import Path

from benchmarks import jobs

signal.signal(signal.SIGINT, signal.default_int_handler)
start = jobs.start

def told(job, threads):
    running = start(job, threads)
    print(running.process.pid, flush=True)
    return running

jobs.start = told
targets = [Path(name) for name in {targets!r}]
jobs.run_jobs([jobs.Job("long", {module!r}, (str(path), "60"), path) for path in targets], 2, 1, print)
"""
IGNORES_INTERRUPTS = """
import signal, time

signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(60)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "writes_a_file.py").write_text(WRITE)
    (tmp_path / "fails.py").write_text("import sys; sys.exit('the reason')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    return tmp_path


def writer(path, needs=(), seconds=0.0):
    return Job(path.parent.name, "writes_a_file", (str(path), str(seconds)), path, tuple(needs))


def test_a_job_waits_for_what_it_needs(module):
    first, second = module / "a" / "x", module / "b" / "x"
    jobs = [writer(second, needs=[first]), writer(first, seconds=0.3)]
    assert run_jobs(jobs, 2, 1, lambda line: None) == []
    assert first.stat().st_mtime < second.stat().st_mtime


def test_what_is_done_is_not_run_again(module):
    path = module / "a" / "x"
    path.write_text("from before")
    run_jobs([writer(path)], 1, 1, lambda line: None)
    assert path.read_text() == "from before"


def test_jobs_run_side_by_side(module):
    """However slowly the machine starts them: each ends only once the other has begun."""
    (module / "waits.py").write_text(WAITS)
    a, b = module / "a" / "x", module / "b" / "x"
    jobs = [Job("a", "waits", (str(a), str(b)), a), Job("b", "waits", (str(b), str(a)), b)]
    assert run_jobs(jobs, 2, 1, lambda line: None) == []


def benchmark(module, does, *names):
    """A benchmark with a long job for every name, and the processes of these."""
    targets = [str(module / name / "x") for name in names]
    (module / "main.py").write_text(MAIN.format(targets=targets, module=does))
    process = subprocess.Popen(
        [sys.executable, str(module / "main.py")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    children = [int(process.stdout.readline()) for _ in names]
    time.sleep(1)  # until it waits for those that it has just announced
    return process, children


def default_signals():
    """nohup, around pytest, leaves one ignored."""
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(how, signal.SIG_DFL)


def is_gone(pid, patience=10.0):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopping_the_benchmark_leaves_no_process_behind(module, how):
    process, (child,) = benchmark(module, "writes_a_file", "a")
    os.kill(process.pid, how)
    assert process.wait(30) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.slow
def test_pressing_ctrl_c_again_and_again_saves_no_process(module):
    (module / "stays.py").write_text(IGNORES_INTERRUPTS)
    process, children = benchmark(module, "stays", "a", "b")
    for _ in range(5):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
    assert process.wait(60) != 0
    assert all(is_gone(child, 0.1) for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_jobs_of_a_benchmark_that_was_killed_do_not_go_on(module):
    process, children = benchmark(module, "writes_a_file", "a", "b")
    process.kill()
    process.wait()
    assert all(map(is_gone, children))


def test_a_failure_is_shown_and_takes_along_only_what_needs_it(module):
    broken = Job("broken", "fails", (), module / "a" / "x")
    needs_it = writer(module / "a" / "y", needs=[broken.result])
    other = writer(module / "b" / "x")
    said = []
    assert run_jobs([broken, needs_it, other], 1, 1, said.append) == [broken, needs_it]
    assert other.done
    assert any("the reason" in line for line in said)
    assert "a: not begun, what it needs has failed" in said


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_benchmark_that_is_stopped_says_how_to_go_on(how, status, monkeypatch, capsys, tmp_path):
    def stopped(*arguments):
        os.kill(os.getpid(), how)
        time.sleep(10)

    monkeypatch.setattr("benchmarks.selection.command.run_jobs", stopped)
    # A shell that starts pytest in the background makes it ignore interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert main(["selection", "--out", str(tmp_path), "--arms", "grpo", "--seeds", "0"]) == status
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on from here" in capsys.readouterr().err


def test_what_takes_long_is_named_now_and_then(module, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.jobs.HEARTBEAT", 0.0)
    assert run_jobs([writer(module / "a" / "x")], 1, 1, lambda line: None) == []
    beats = capsys.readouterr().err.splitlines()
    assert beats
    assert all(re.fullmatch(r"\.\.\. a \d+ s", line) for line in beats)
