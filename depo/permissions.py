"""Weight files that others may read as far as the user's umask lets them.

safetensors writes to a temporary file, which only its owner may read, and renames it: without more,
everything but the weights of a model could be shared.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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
