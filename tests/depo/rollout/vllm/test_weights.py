"""New weights into running vLLM engines, what the parity probe catches, and engines that die."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray
import torch
from safetensors import safe_open

from depo.models.export import export_policy
from depo.rollout.engine import Sampling, WeightSyncError, WeightUpdate
from depo.rollout.parity import ParityProbe, default_tolerance

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]


def test_scores_equal_teacher_forcing(pair):
    learner, pool = pair
    assert learner.score_gap(pool) < 1e-4


def test_a_sequence_too_long_to_score_is_refused_with_the_limit(served):
    _, pool = served["tied"]
    with pytest.raises(RuntimeError, match=r"vLLM worker 0.* 256 tokens.* at most 255"):
        pool.score_each([((3,) * 6, (4,) * 250)])


def test_successive_syncs_keep_parity_in_scores_and_in_samples(pair, requests):
    learner, pool = pair
    asked = requests(3, 2, length=140)  # longer than a cache block, so that prefixes are cached
    list(pool.generate(asked, Sampling(1.0, 8)))
    for seed in range(3):
        learner.perturb(seed)
        assert learner.score_gap(pool) > 0.1  # not synced yet
        version = learner.sync_into(pool)
        assert learner.score_gap(pool) < 1e-4
        rollouts = list(pool.generate(asked, Sampling(1.0, 8)))
        assert {rollout.policy_version for rollout in rollouts} == {version}
        assert learner.largest_gap(asked, rollouts, 1.0) < 1e-4


@pytest.mark.parametrize("moves", [("self_attn", "mlp", "self_attn"), ("mlp", "self_attn", "mlp")])
def test_blocks_that_are_not_sent_keep_what_they_had(pair, moves, tmp_path):
    """vLLM fuses queries, keys and values; gate and up; all experts: a block goes whole or not at all."""
    learner, pool = pair
    learner.sync_into(pool)
    for seed, block in enumerate(moves):
        torch.manual_seed(seed)
        for name, weight in learner.model.named_parameters():
            weight.requires_grad_(f".{block}." in name and "layers.1" in name)
            if weight.requires_grad:
                weight.data.add_(torch.randn_like(weight) * 0.05)
        assert learner.score_gap(pool) > 0.05  # not synced yet
        export_policy(learner.model, tmp_path / str(seed), trained_only=True)
        with safe_open(tmp_path / str(seed) / "model.safetensors", "pt") as file:
            assert {".".join(name.split(".")[:4]) for name in file.keys()} == {f"model.layers.1.{block}"}  # noqa: SIM118
        learner.version += 1
        pool.load_weights(WeightUpdate(learner.version, str(tmp_path / str(seed))))
        assert learner.score_gap(pool) < 1e-4
    learner.model.requires_grad_(True)


def startup_probe(learner, pool, sync) -> None:
    ParityProbe(learner.sequences, default_tolerance("float32")).verify_startup(learner, pool, sync)


def test_startup_probe_passes_with_the_real_sync(pair):
    learner, pool = pair
    learner.sync_into(pool)
    startup_probe(learner, pool, lambda: learner.sync_into(pool))
    assert learner.score_gap(pool) < 1e-4


def does_nothing(self, directory: str) -> None:
    pass


def stock_reload(self, directory: str) -> None:
    self.model_runner.reload_weights(weights_path=directory)


@pytest.mark.parametrize("sabotage", [does_nothing, stock_reload])
def test_startup_probe_catches_an_engine_that_keeps_old_weights(pair, sabotage):
    learner, pool = pair
    learner.sync_into(pool)
    last = list(pool.workers)[-1]
    original = ray.get(pool.workers[last].__ray_call__.remote(replace_extension_method, sabotage))
    try:
        with pytest.raises(WeightSyncError, match=rf"{last} .*differ by .* nats"):
            startup_probe(learner, pool, lambda: learner.sync_into(pool))
    finally:
        ray.get(pool.workers[last].__ray_call__.remote(replace_extension_method, original))
    learner.sync_into(pool)
    assert learner.score_gap(pool) < 1e-4


def replace_extension_method(worker, method):
    from depo.rollout.vllm.extension import WeightSyncExtension

    original = WeightSyncExtension.depo_load_directory
    WeightSyncExtension.depo_load_directory = method
    return original


def test_startup_probe_catches_a_stale_directory(served, tmp_path):
    learner, pool = served["moe"]
    learner.model.save_pretrained(tmp_path / "old")
    learner.sync_into(pool)
    with pytest.raises(WeightSyncError, match="perturbed policy"):
        startup_probe(learner, pool, lambda: pool.load_weights(WeightUpdate(99, str(tmp_path / "old"))))


@pytest.mark.parametrize("directory", [None, "empty"])
def test_a_sync_without_a_policy_is_refused_and_the_engine_keeps_serving(served, tmp_path, directory):
    learner, pool = served["moe"]
    learner.sync_into(pool)
    (tmp_path / "empty").mkdir()
    where = None if directory is None else str(tmp_path / directory)
    with pytest.raises(WeightSyncError, match=r"vLLM worker 0: .*version 77"):
        pool.load_weights(WeightUpdate(77, where))
    assert learner.score_gap(pool) < 1e-4


def test_a_sync_with_another_architecture_is_a_sync_error(served):
    """Last of its kind on this engine: it is not usable afterwards until a full sync."""
    learner, pool = served["tied"]
    other, _ = served["moe"]
    with pytest.raises(WeightSyncError, match=r"vLLM worker 0: vLLM could not load policy version 5"):
        pool.load_weights(WeightUpdate(5, str(other.directory)))
    learner.sync_into(pool)


def test_an_engine_that_cannot_start_is_named_with_the_reason(pool_for, tmp_path):
    pool = pool_for(tmp_path / "no model here")
    with pytest.raises(RuntimeError, match=r"vLLM worker 0.*(\n|.)*no model here"):
        pool.ready()
    pool.close()


def test_importing_the_pool_needs_neither_vllm_nor_torch():
    code = "import sys, depo.rollout.vllm.pool; print({'vllm', 'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_an_engine_that_dies_while_generating_is_replaced(served, requests):
    """Last of all files here: it takes a new engine to start. The new one serves the weights loaded last."""
    learner, pool = served["moe"]
    version = learner.sync_into(pool)
    asked = requests(8, 8)
    stream = pool.generate(asked, Sampling(1.0, 200))
    first = next(stream)
    ray.kill(pool.workers["vLLM worker 1"])
    rollouts = [first, *stream]
    assert len({(one.key, one.index) for one in rollouts}) == len(rollouts) == 64
    assert {one.policy_version for one in rollouts} == {version}
    assert learner.largest_gap(asked, rollouts, 1.0) < 1e-3
    assert learner.score_gap(pool) < 1e-3
