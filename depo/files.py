"""Where results are written, and how: aside, fsynced and renamed. A kill leaves the old file or the new one.

Weight files follow the user's umask: safetensors writes to a temporary file that only its owner may read,
and renames it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depo.errors import RunStopped, UserError, unwrapped

if TYPE_CHECKING:
    from depo.estimators.base import State


def new_directory(name: str) -> Path:
    """runs/NAME-TIMESTAMP (UTC), numbered when two start in the same second."""
    stem = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    directory, attempt = Path("runs") / stem, 1
    while directory.exists():
        attempt += 1
        directory = Path("runs") / f"{stem}-{attempt}"
    return directory


def check_place(path: Path, option: str) -> None:
    """Raise UserError unless ``path``, with the directories that lead to it, can be made or is there. Asked
    before hours of work, not when their result is to be written."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if there != path.absolute() and not there.is_dir():
        raise UserError(f"{option} {path}: {there.name} is a file, so nothing can lie below it")
    if not os.access(there, os.W_OK):
        raise UserError(f"{option} {path}: no permission to write to {there}")
    if there.is_dir():
        try:  # some directories only look as if they could be written: those of /proc, for one
            os.rmdir(tempfile.mkdtemp(dir=there))
        except OSError as error:
            raise UserError(f"{option} {path}: nothing can be made in {there} ({error.strerror})") from None


def check_run_dir(run_dir: Path | None, resume: bool) -> None:
    """Raise UserError when a command would overwrite what another one wrote, or resume nothing."""
    if run_dir is None:
        if resume:
            raise UserError("--resume needs --run-dir: the directory to continue in")
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir}: is a file, not a directory")
    check_place(run_dir, "--run-dir")
    if resume and not run_dir.is_dir():
        raise UserError(f"--run-dir {run_dir}: no such directory, so there is no run to resume")
    if not resume and run_dir.is_dir() and any(run_dir.iterdir()):
        raise UserError(
            f"--run-dir {run_dir}: is not empty; add --resume to continue it, or name another directory"
        )


def follow_umask(directory: Path) -> None:
    """Give the safetensors files below ``directory`` the mode that a file newly made there would have."""
    mode = usual_mode(directory)
    for path in directory.rglob("*.safetensors"):
        path.chmod(mode)


def usual_mode(directory: Path) -> int:
    """Found by making a file: reading the umask means setting it, for all threads of the process."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        descriptor = os.open(Path(scratch) / "plain", os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            return os.fstat(descriptor).st_mode & 0o777
        finally:
            os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, in a file that is made; the kernel lets go when the process dies. Raises BlockingIOError
    where another process holds it, OSError where the file system knows no locks."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what could not be written, and why. Raises RunStopped in place of an OSError, and of what
    safetensors raises for one, be it in the learner's process."""
    try:
        yield
    except Exception as error:
        cause = unwrapped(error)
        safetensors = sys.modules.get("safetensors")
        kinds = (OSError,) if safetensors is None else (OSError, safetensors.SafetensorError)
        if not isinstance(cause, kinds):
            raise
        reason = getattr(cause, "strerror", None) or cause
        raise RunStopped(f"{path}: cannot be written: {reason}") from error


def check_space(directory: Path, needed: int) -> None:
    """Raise RunStopped unless ``needed`` bytes are free where ``directory`` is or will be."""
    there = next(place for place in (directory, *directory.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise RunStopped(
            f"{directory}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on its file system; "
            "make room there"
        )


@contextmanager
def file_aside(path: Path) -> Iterator[Path]:
    """The place beside ``path`` (``.NAME.partial``) to write its new content to, in a directory that is made.
    At the end it is fsynced and renamed to ``path``. An error removes it; after a kill it may stay."""
    aside = path.with_name(f".{path.name}.partial")
    with writing(path):
        aside.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            fsync(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


@contextmanager
def directory_aside(path: Path) -> Iterator[Path]:
    """The same for a directory, empty at first: all of it or nothing. What lies at ``path`` is removed before
    the new one is renamed; a kill between the two leaves the whole new one aside."""
    aside = path.with_name(f".{path.name}.partial")
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            follow_umask(aside)
            on_disk(aside)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
        fsync(path.parent)


def write_text(path: Path, text: str) -> None:
    with file_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, indent: int = 2) -> None:
    """Raises ValueError for a number that is not finite: JSON has none."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "manifest.json"
"""In a sealed directory: size in bytes and SHA-256 of each other file of it."""


def seal(directory: Path) -> None:
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file()]
    write_json(directory / MANIFEST, {path.relative_to(directory).as_posix(): sealed(path) for path in paths})


def sealed(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def broken_seal(directory: Path, part: str = "") -> str | None:
    """What of a sealed directory, or of one directory in it, is not as it was sealed; None where all is."""
    try:
        manifest = read_json(directory / MANIFEST)
    except (OSError, ValueError):
        return f"{MANIFEST} cannot be read"
    ours = isinstance(manifest, dict) and all(
        isinstance(one, dict) and one.keys() == {"bytes", "sha256"} for one in manifest.values()
    )
    for name, expected in manifest.items() if ours else ():  # another program's file may have that name
        path = directory / name
        if part and not name.startswith(f"{part}/"):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size:,} bytes, {expected['bytes']:,} were written"
        if sealed(path) != expected:
            return f"{name} has changed since it was written"
    return None


def on_disk(directory: Path) -> None:
    """Wait until a directory with all that is in it would survive a power cut."""
    for path in [*directory.rglob("*"), directory]:
        fsync(path)


def fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


STEP_DIGITS = 6


def step_name(step: int) -> str:
    return f"step_{step:0{STEP_DIGITS}d}"


def latest_checkpoint(root: Path) -> Path | None:
    """The newest complete checkpoint under ``root``, or None."""
    return max(complete_checkpoints(root), default=None)


def save_state(directory: Path, state: State) -> None:
    """An estimator's state as ``state.json`` and ``state.safetensors``."""
    from safetensors.numpy import save_file  # numpy: not for --help

    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(state.arrays), directory / "state.safetensors")
    write_json(directory / "state.json", {"schema_version": state.schema_version, "values": state.values})


def load_state(directory: Path) -> State:
    from safetensors.numpy import load_file

    from depo.estimators.base import State

    try:
        meta = read_json(directory / "state.json")
        arrays = load_file(directory / "state.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"{directory}: not a readable estimator state ({error})") from error
    return State(schema_version=meta["schema_version"], values=meta["values"], arrays=arrays)


def complete_checkpoints(root: Path) -> list[Path]:
    return [path for path in root.glob("step_*") if path.is_dir()]
