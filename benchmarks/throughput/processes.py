"""Run one side in a process of its own and measure it from outside: start-up time and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from benchmarks.jobs import end_with_parent
from benchmarks.throughput.memory import PeakMemory

Side = Literal["depo", "trl"]


Mode = Literal["train", "update"]


SIDES: tuple[Side, Side] = ("depo", "trl")


def measure(side: Side, mode: Mode, directory: Path, threads: int) -> dict[str, Any]:
    """What the side measured about itself, ``peak_memory_mib``, and when its process was ``started``.

    Raises RuntimeError with the end of what it wrote when it fails.
    """
    log = directory / "output.log"
    with log.open("w") as output:
        started = time.time()
        process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.throughput.{side}_side", mode, str(directory)],
            env=environment(threads),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=end_with_parent,
        )
        try:
            with PeakMemory(process.pid) as peak:
                status = process.wait()
        finally:
            if process.poll() is None:  # interrupted: its own children end with it
                process.terminate()
                process.wait()
    if status != 0:
        end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise RuntimeError(f"{side}'s {mode} process ended with status {status}: {end}")
    result = json.loads((directory / "result.json").read_text())
    return result | {"started": started, "peak_memory_mib": peak.mib}


def environment(threads: int) -> dict[str, str]:
    """Of both sides: the same threads, and nobody else's Ray cluster."""
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return inherited | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
