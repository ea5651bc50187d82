"""Ray: the cluster that RAY_ADDRESS or the recipe names, else a local one for the length of the run."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants

from depo.errors import UserError
from depo.recipe.schema import Recipe
from depo.report.provenance import usable_cores

LOCAL_OBJECT_STORE_BYTES = 256 * 2**20

STARTS = 3

TOO_SLOW = "timed out during startup"


@contextmanager
def ray_cluster(recipe: Recipe) -> Iterator[None]:
    """Connect to Ray, or start it, and leave it as it was found.

    A run submitted with ``ray job submit`` finds RAY_ADDRESS set by Ray itself. Raises UserError when the
    named cluster does not answer.
    """
    engines = recipe.rollout.vllm.workers if recipe.rollout.engine == "vllm" else 0
    with ray_for(recipe.resources.address, engines, recipe.learner.ranks):
        yield


@contextmanager
def ray_for(address: str | None, engines: int, ranks: int = 1) -> Iterator[None]:
    """The same for numbers of engines and of ranks of the learner, with or without a recipe."""
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with sigterm_handler_kept():
        init(address, engines + ranks)
    try:
        yield
    finally:
        ray.shutdown()


def init(address: str | None, places: int) -> None:
    """Connect to the cluster at ``address``, or start a local one with room for so many actors."""
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        try:
            ray.init(address=address, **quiet)
        except ConnectionError as error:
            raise UserError(
                f"resources.address / RAY_ADDRESS: no Ray cluster answers at {address}"
            ) from error
    else:
        # Ray counts CPUs to place actors; each rank and each engine needs a place, whatever the machine has.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        # "local": without it Ray would join whatever cluster was last started on this machine.
        start_local(
            address="local",
            num_cpus=max(usable_cores(), places),
            include_dashboard=False,
            object_store_memory=LOCAL_OBJECT_STORE_BYTES,
            **quiet,
        )


def start_local(**settings: Any) -> None:
    """``ray.init``, which gives its own processes half a minute to come up: on a busy machine not always
    enough, so that a run of hours would be lost before it begins."""
    for starts_left in reversed(range(STARTS)):
        try:
            with on_loopback():
                ray.init(**settings)
        except Exception as error:  # Ray raises no narrower type for this one
            if TOO_SLOW not in str(error) or not starts_left:
                raise
            ray.shutdown()
        else:
            return


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile listens to this machine alone. By default, and whatever address
    ``ray.init`` is given, it listens on all interfaces; this is what keeps it from that on macOS."""
    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def sigterm_handler_kept() -> Iterator[None]:
    """``ray.init`` puts its own handler in place of the caller's; the caller's, if it has one, comes back."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def gpus_in_cluster() -> int:
    """Devices that Ray can place actors on."""
    return int(ray.cluster_resources().get("GPU", 0))


def cpus_in_cluster() -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def learner_gpus(recipe: Recipe, gpus: int) -> int:
    """Devices that each rank of the learner reserves where the cluster has ``gpus``."""
    if recipe.learner.device == "cpu":
        return 0
    wanted = recipe.resources.learner_gpus
    return min(1, gpus) if wanted is None else wanted
