"""A wheel from the package index, by pip: it knows the user's index, proxy and cache.

pip's own bar comes with lines that nobody asked for, and older versions cannot be made to say how far they
are. So pip is kept quiet, and what it has written so far is looked at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from depo.console import download_bar
from depo.errors import UserError

LOOK_SECONDS = 0.2


def download(requirement: str, size: int, into: Path) -> Path:
    """The wheel of ``requirement``, of ``size`` bytes, in the directory ``into``. On a terminal with a bar,
    else with one line. Raises UserError with pip's reason when there is none."""
    with download_bar() if sys.stdout.isatty() else nullcontext() as bar:
        if bar is None:
            print(f"downloading {requirement} ({size / 1e6:.0f} MB)", flush=True)
            status, complaint = run_pip(requirement, into, lambda done: None)
        else:
            task = bar.add_task(f"downloading {requirement}", total=size)
            status, complaint = run_pip(requirement, into, lambda done: bar.update(task, completed=done))
    wheels = list(into.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        lines = [line.strip() for line in complaint.splitlines() if line.strip()]
        reason = lines[-1] if lines else "pip said nothing"
        raise UserError(f"depo fetch: pip could not download {requirement} ({reason})")
    return wheels[0]


def run_pip(requirement: str, into: Path, show: Callable[[int], None]) -> tuple[int, str]:
    """Exit status and stderr of ``pip download``; ``show`` is told now and then how many bytes there are."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(into), requirement]
    # pip writes to its temporary directory first, and moves the finished file.
    temporary = into / "pip"
    temporary.mkdir()
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while True:
                try:
                    _, complaint = process.communicate(timeout=LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    show(written(into))
                    continue
                show(written(into))
                return process.returncode, complaint
        finally:
            process.kill()  # on Ctrl-C; does nothing to a process that has ended


def written(directory: Path) -> int:
    """Bytes of the wheels below ``directory``, finished or not. A file may be moved while it is looked at."""
    total = 0
    for path in directory.rglob("*.whl"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total
