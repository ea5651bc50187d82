"""A policy small enough to train in a test, with real Ray and the real command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from tiny_run import make_policy, make_workdir, run_depo


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See ``make_policy``."""
    return make_policy(tmp_path_factory.mktemp("policy") / "tiny")


@pytest.fixture
def workdir(tmp_path: Path, tiny_policy: Path) -> Path:
    """A directory with a data set, a reward of one's own and ``tiny.yaml``; commands run there."""
    return make_workdir(tmp_path, tiny_policy)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A local Ray for all tests of the session: ``depo`` commands of this process find it running, and a
    process in which one learner after another is at work."""
    from shared_learner import SharedGroup

    from depo.workers.cluster import ray_for

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("depo.workers.learner.ActorGroup", SharedGroup)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("depo.workers.cluster.STARTS", 10)  # Ray waits half a minute, whatever else goes on
        with ray_for(None, engines=2):
            yield


@pytest.fixture(scope="session")
def finished(cluster: None, tmp_path_factory: pytest.TempPathFactory, tiny_policy: Path) -> Path:
    """The directory of a run of ``tiny.yaml`` that nobody disturbed. Tests read it and leave it as it is."""
    workdir = make_workdir(tmp_path_factory.mktemp("finished"), tiny_policy)
    done = run_depo("train", "tiny.yaml", "--run-dir", "run", cwd=workdir)
    assert done.returncode == 0, done.stdout + done.stderr
    (workdir / "stdout.txt").write_text(done.stdout)
    (workdir / "stderr.txt").write_text(done.stderr)
    return workdir / "run"


@pytest.fixture(scope="session")
def cuda() -> Iterator[object]:
    """The CUDA device, where float32 products are float32's; skips where there is none."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    yield torch.device("cuda", 0)
    products.allow_tf32 = before
