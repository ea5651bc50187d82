"""How many CPU cores there are to use, which a container or a batch system may have limited."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may run on; where the system does not tell, those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
