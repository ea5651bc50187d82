"""Who can reach a run that has started its own Ray: this machine alone."""

from __future__ import annotations

import os

import psutil
import pytest
import ray


@ray.remote(num_cpus=0)
class Worker:
    def pid(self) -> int:
        return os.getpid()


def listeners() -> dict[str, set[str]]:
    """Addresses that this process and those it has started listen at, by process."""
    found: dict[str, set[str]] = {}
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            sockets = process.net_connections(kind="inet")
        except psutil.Error:  # it has ended
            continue
        if addresses := {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}:
            found[process.name()] = found.get(process.name(), set()) | addresses
    return found


@pytest.mark.usefixtures("cluster")
def test_ray_that_a_run_starts_listens_to_this_machine_alone() -> None:
    worker = Worker.remote()
    ray.get(worker.pid.remote())
    found = listeners()
    assert {"gcs_server", "raylet"} <= set(found)
    assert set.union(*found.values()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found
    ray.kill(worker)
