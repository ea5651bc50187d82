"""A policy small enough to train in a test, with real Ray and the real command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from depo.recipe.schema import TinyMoePolicy

sys.path.insert(0, str(Path(__file__).parent))

from tiny_run import make_workdir

TINY = TinyMoePolicy(
    hidden_size=64, layers=2, heads=2, kv_heads=1, experts=4, expert_size=32, max_positions=64
)


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory) -> Path:
    """An untrained qwen3_moe with a character tokenizer, as a Hugging Face directory."""
    from depo.toy import tiny_moe

    directory = tmp_path_factory.mktemp("policy") / "tiny"
    tiny_moe.build(TINY, directory, seed=0)
    return directory


@pytest.fixture
def workdir(tmp_path, tiny_policy) -> Path:
    """A directory with a data set, a reward of one's own and ``tiny.yaml``; commands run there."""
    return make_workdir(tmp_path, tiny_policy)


@pytest.fixture(scope="session")
def cuda() -> Iterator[torch.device]:
    """The CUDA device, where float32 products are float32's; skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    products = torch.backends.cuda.matmul
    before, products.allow_tf32 = products.allow_tf32, False
    yield torch.device("cuda", 0)
    products.allow_tf32 = before


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local Ray of two cores; one that runs already serves as it is."""
    import ray

    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=150_000_000,
            log_to_driver=False,
        )
    yield
    if mine:
        ray.shutdown()
