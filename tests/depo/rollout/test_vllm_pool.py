"""vLLM in Ray actors, against transformers on the same weights: a tiny MoE and a tiny tied-head model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors import safe_open
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from depo.errors import RunStopped
from depo.models.export import export_policy
from depo.recipe.schema import Rollouts
from depo.rollout.engine import Sampling, WeightSyncError, WeightUpdate
from depo.rollout.parity import ParityProbe, default_tolerance
from depo.rollout.vllm.pool import VllmPool
from depo.types import Prompt, Request

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("cluster")]

VOCAB = 40
END, ALSO_END = 1, 2
CONTEXT = 256


def tiny_moe() -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    shape = Qwen3MoeConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=False,
    )
    return Qwen3MoeForCausalLM(shape).eval()


def tiny_tied() -> LlamaForCausalLM:
    torch.manual_seed(1)
    shape = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(shape).eval()


class TransformersLearner:
    """The learner's side: the weights, teacher-forced scores, and a directory to hand weights over."""

    def __init__(self, model, directory: Path) -> None:
        self.model = model
        self.directory = directory
        self.version = 0
        self.kept: dict[str, torch.Tensor] = {}
        # What chat models ship: were it followed, every sample would be the most likely token.
        model.generation_config.update(do_sample=True, top_k=1, temperature=0.6, eos_token_id=END)
        self.export()

    def export(self) -> str:
        self.model.save_pretrained(self.directory)
        return str(self.directory)

    @torch.no_grad()
    def score(self, sequences, temperature: float = 1.0) -> list[np.ndarray]:
        scores = []
        for prompt, completion in sequences:
            ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
            logprobs = (self.model(ids).logits[0].double() / temperature).log_softmax(-1)
            rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
            scores.append(logprobs[rows, ids[0, len(prompt) :]].numpy())
        return scores

    @torch.no_grad()
    def perturb(self, seed: int, scale: float = 1.0) -> None:
        self.kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        torch.manual_seed(seed)
        for weight in self.model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)

    def restore(self) -> None:
        self.model.load_state_dict(self.kept)

    def sync_into(self, pool: VllmPool) -> int:
        self.version += 1
        return pool.load_weights(WeightUpdate(self.version, self.export()))


def pool_for(model: Path, workers: int = 1) -> VllmPool:
    settings = Rollouts(
        engine="vllm", vllm={"workers": workers, "max_num_seqs": 64, "cpu_kv_cache_gib": 0.25}
    )
    return VllmPool(
        settings,
        str(model),
        dtype="float32",
        context_length=CONTEXT,
        eos_token_ids=(END, ALSO_END),
        threads=1,
    )


@pytest.fixture(scope="module")
def served(cluster, tmp_path_factory):
    """Learner and pool by kind of model; the MoE is served by two engines."""
    learners = {
        name: TransformersLearner(build(), tmp_path_factory.mktemp(name) / "policy")
        for name, build in (("moe", tiny_moe), ("tied", tiny_tied))
    }
    pools = {name: pool_for(learners[name].directory, workers) for name, workers in (("moe", 2), ("tied", 1))}
    for pool in pools.values():
        pool.ready()
    yield {name: (learners[name], pools[name]) for name in learners}
    for pool in pools.values():
        pool.close()


@pytest.fixture(params=["moe", "tied"])
def pair(served, request):
    return served[request.param]


def prompt(key: int, length: int = 4) -> Prompt:
    ids = np.random.default_rng(key).integers(3, VOCAB, size=length)
    return Prompt(key=f"prompt {key}", text="", token_ids=tuple(int(token) for token in ids), reference="")


def requests(prompts: int, samples: int, length: int = 4) -> list[Request]:
    return [
        Request(prompt(key, length), tuple(10_000 * key + sample for sample in range(samples)))
        for key in range(prompts)
    ]


def by_sample(rollouts) -> dict:
    table = {(rollout.key, rollout.index): rollout for rollout in rollouts}
    assert len(table) == len(rollouts)
    return table


def largest_gap(learner, asked: list[Request], rollouts, temperature: float) -> float:
    """Largest |recorded − teacher-forced| log-probability over all tokens of all rollouts."""
    ids = {request.prompt.key: request.prompt.token_ids for request in asked}
    forced = learner.score([(ids[rollout.key], rollout.token_ids) for rollout in rollouts], temperature)
    return max(
        float(np.abs(row - rollout.logprobs).max()) for row, rollout in zip(forced, rollouts, strict=True)
    )


def fixed_sequences(count: int = 4, length: int = 24):
    rng = np.random.default_rng(7)
    return [
        (prompt(key).token_ids, tuple(map(int, rng.integers(VOCAB, size=length)))) for key in range(count)
    ]


def score_gap(learner, pool) -> float:
    sequences = fixed_sequences()
    expected = np.concatenate(learner.score(sequences))
    return max(
        float(np.abs(np.concatenate(rows) - expected).max()) for rows in pool.score_each(sequences).values()
    )


# ------------------------------------------------------------------- generation


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_the_tempered_distribution(pair, temperature):
    learner, pool = pair
    asked = requests(4, 4)
    rollouts = list(pool.generate(asked, Sampling(temperature, 32)))
    assert len(rollouts) == 16
    assert largest_gap(learner, asked, rollouts, temperature) < 1e-4
    assert largest_gap(learner, asked, rollouts, 1.7 - temperature) > 1e-2  # of no other temperature


def test_every_sample_comes_back_once_with_its_seed_and_the_version_served(served):
    learner, pool = served["moe"]
    version = learner.sync_into(pool)
    asked = [Request(prompt(1), (11, 12, 13), first_index=5), Request(prompt(2), (21,))]
    table = by_sample(list(pool.generate(asked, Sampling(1.0, 8))))
    assert {sample: rollout.seed for sample, rollout in table.items()} == {
        ("prompt 1", 5): 11,
        ("prompt 1", 6): 12,
        ("prompt 1", 7): 13,
        ("prompt 2", 0): 21,
    }
    for rollout in table.values():
        assert rollout.policy_version == version
        assert (rollout.token_ids.dtype, rollout.logprobs.dtype) == (np.int32, np.float32)
        assert len(rollout.token_ids) == len(rollout.logprobs) <= 8


def test_completions_end_with_any_end_token_included_or_at_the_limit(pair):
    _, pool = pair
    rollouts = list(pool.generate(requests(8, 12), Sampling(1.0, 24)))
    ends = {int(rollout.token_ids[-1]) for rollout in rollouts if rollout.finish_reason == "stop"}
    assert ends == {END, ALSO_END}
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1].tolist()) & {END, ALSO_END}
        if rollout.finish_reason == "length":
            assert len(rollout.token_ids) == 24
            assert rollout.token_ids[-1] not in (END, ALSO_END)


def test_a_sample_does_not_depend_on_batch_order_or_engine(served):
    _, pool = served["moe"]
    asked = requests(6, 4)
    together = by_sample(list(pool.generate(asked, Sampling(1.0, 24))))
    again = by_sample(list(pool.generate(asked, Sampling(1.0, 24))))
    backwards = by_sample(list(pool.generate(asked[::-1], Sampling(1.0, 24))))
    odd_one_first = by_sample(list(pool.generate([asked[5], *asked[:5:2]], Sampling(1.0, 24))))
    alone = by_sample([*pool.generate([asked[3]], Sampling(1.0, 24))])
    for other in (again, backwards, odd_one_first, alone):
        for sample, rollout in other.items():
            np.testing.assert_array_equal(rollout.token_ids, together[sample].token_ids)
            np.testing.assert_allclose(rollout.logprobs, together[sample].logprobs, atol=1e-4)


def test_different_seeds_give_different_samples(served):
    _, pool = served["moe"]
    rollouts = list(pool.generate([Request(prompt(0), tuple(range(32)))], Sampling(1.0, 8)))
    assert len({tuple(rollout.token_ids) for rollout in rollouts}) > 24


def chi_square_p(counts: np.ndarray, probabilities: np.ndarray) -> float:
    """Upper tail of Pearson's chi-square; cells expected under five times are merged into one."""
    expected = probabilities * counts.sum()
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_follow_the_full_softmax_although_the_model_ships_top_k_1(served, temperature):
    learner, pool = served["tied"]
    start = prompt(3)
    rollouts = pool.generate([Request(start, tuple(range(800)))], Sampling(temperature, 1))
    counts = np.bincount([int(rollout.token_ids[0]) for rollout in rollouts], minlength=VOCAB)

    def softmax(at: float) -> np.ndarray:
        return np.exp(
            np.concatenate(learner.score([(start.token_ids, (token,)) for token in range(VOCAB)], at))
        )

    assert chi_square_p(counts, softmax(temperature)) > 1e-3
    assert chi_square_p(counts, softmax(1.7 - temperature)) < 1e-3  # the test has the power to tell


def test_greedy_takes_the_most_likely_token_each_time(pair):
    learner, pool = pair
    asked = requests(2, 1)
    for rollout, request in zip(
        sorted(pool.generate(asked, Sampling(0.0, 12)), key=lambda rollout: rollout.key), asked, strict=True
    ):
        ids = torch.tensor([[*request.prompt.token_ids, *rollout.token_ids.tolist()]])
        with torch.no_grad():
            best = learner.model(ids).logits[0].argmax(-1)[len(request.prompt.token_ids) - 1 : -1]
        assert rollout.token_ids.tolist() == best.tolist()


def test_tokens_are_told_while_no_sample_has_ended(served, monkeypatch):
    _, pool = served["tied"]
    asked, sampling = requests(3, 2), Sampling(1.0, 24)
    whole = by_sample(list(pool.generate(asked, sampling)))
    monkeypatch.setattr("depo.rollout.vllm.pool.LOOK_SECONDS", 0.0)  # a look at every step
    told: list[int] = []
    monkeypatch.setattr(pool, "heartbeat", told.append)
    ended: list[int] = []
    for rollout in pool.generate(asked, sampling):
        ended.append(len(rollout.token_ids))
        assert len(told) >= max(ended) - 1, "each step before the one that gave its last token"
        np.testing.assert_array_equal(rollout.token_ids, whole[rollout.key, rollout.index].token_ids)
    assert sum(told) == sum(ended)
    assert max(told) <= 6, "one token a step for each of the six"
    monkeypatch.setattr("depo.rollout.vllm.pool.LOOK_SECONDS", 1e9)
    told.clear()
    list(pool.generate(asked, sampling))
    assert sum(told) == sum(ended), "the rest is told at the end"
    assert len([tokens for tokens in told if tokens]) == 1


def test_an_abandoned_stream_leaves_nothing_behind(served):
    _, pool = served["moe"]
    next(pool.generate(requests(6, 8), Sampling(1.0, 64)))
    later = by_sample(list(pool.generate([Request(prompt(9), (1, 2))], Sampling(1.0, 8))))
    assert set(later) == {("prompt 9", 0), ("prompt 9", 1)}


# ------------------------------------------------------------------- weights


def test_scores_equal_teacher_forcing(pair):
    learner, pool = pair
    assert score_gap(learner, pool) < 1e-4


def test_a_sequence_too_long_to_score_is_refused_with_the_limit(served):
    _, pool = served["tied"]
    with pytest.raises(RuntimeError, match=r"vLLM worker 0.* 256 tokens.* at most 255"):
        pool.score_each([((3,) * 6, (4,) * 250)])


def test_successive_syncs_keep_parity_in_scores_and_in_samples(pair):
    learner, pool = pair
    asked = requests(3, 2, length=140)  # longer than a cache block, so that prefixes are cached
    list(pool.generate(asked, Sampling(1.0, 8)))
    for seed in range(3):
        learner.perturb(seed)
        assert score_gap(learner, pool) > 0.1  # not synced yet
        version = learner.sync_into(pool)
        assert score_gap(learner, pool) < 1e-4
        rollouts = list(pool.generate(asked, Sampling(1.0, 8)))
        assert {rollout.policy_version for rollout in rollouts} == {version}
        assert largest_gap(learner, asked, rollouts, 1.0) < 1e-4


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
        assert score_gap(learner, pool) > 0.05  # not synced yet
        export_policy(learner.model, tmp_path / str(seed), trained_only=True)
        with safe_open(tmp_path / str(seed) / "model.safetensors", "pt") as file:
            assert {".".join(name.split(".")[:4]) for name in file.keys()} == {f"model.layers.1.{block}"}  # noqa: SIM118
        learner.version += 1
        pool.load_weights(WeightUpdate(learner.version, str(tmp_path / str(seed))))
        assert score_gap(learner, pool) < 1e-4
    learner.model.requires_grad_(True)


def startup_probe(learner, pool, sync) -> None:
    ParityProbe(fixed_sequences(), default_tolerance("float32")).verify_startup(learner, pool, sync)


def test_startup_probe_passes_with_the_real_sync(pair):
    learner, pool = pair
    learner.sync_into(pool)
    startup_probe(learner, pool, lambda: learner.sync_into(pool))
    assert score_gap(learner, pool) < 1e-4


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
    assert score_gap(learner, pool) < 1e-4


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
    assert score_gap(learner, pool) < 1e-4


def test_a_sync_with_another_architecture_is_a_sync_error(served, tmp_path):
    """Last of its kind on this engine: it is not usable afterwards until a full sync."""
    learner, pool = served["tied"]
    tiny_moe().save_pretrained(tmp_path)
    with pytest.raises(WeightSyncError, match=r"vLLM worker 0: vLLM could not load policy version 5"):
        pool.load_weights(WeightUpdate(5, str(tmp_path)))
    learner.sync_into(pool)


# ------------------------------------------------------------------- life and death


def test_an_engine_that_cannot_start_is_named_with_the_reason(tmp_path):
    pool = pool_for(tmp_path / "no model here")
    with pytest.raises(RuntimeError, match=r"vLLM worker 0.*(\n|.)*no model here"):
        pool.ready()
    pool.close()


def test_importing_the_pool_needs_neither_vllm_nor_torch():
    code = "import sys, depo.rollout.vllm.pool; print({'vllm', 'torch', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_an_engine_that_dies_while_generating_is_named(served):
    """Last in this file: starting another engine only to kill it would take longer than the rest."""
    _, pool = served["moe"]
    stream = pool.generate(requests(8, 8), Sampling(1.0, 200))
    next(stream)
    ray.kill(pool.workers["vLLM worker 1"])
    with pytest.raises(RunStopped, match="vLLM worker 1 died"):
        list(stream)
    with pytest.raises(RunStopped, match="vLLM worker 1 died"):
        pool.score_each(fixed_sequences())
