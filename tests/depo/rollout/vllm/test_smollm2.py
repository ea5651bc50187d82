"""A real pretrained model (SmolLM2-135M-Instruct, tied head) in vLLM, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from depo.recipe.schema import Rollouts
from depo.rollout.engine import Sampling, WeightUpdate
from depo.rollout.parity import ParityProbe, choose_sequences, default_tolerance, difference
from depo.rollout.vllm.pool import VllmPool
from depo.types import Prompt, Request

pytestmark = pytest.mark.vllm


class Learner:
    """transformers on the same weights, with the probe's three methods."""

    def __init__(self, model) -> None:
        self.model = model
        self.kept: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def score(self, sequences) -> list[np.ndarray]:
        scores = []
        for prompt, completion in sequences:
            ids = torch.tensor([[*prompt, *completion]], dtype=torch.long)
            logprobs = self.model(ids).logits[0].log_softmax(-1)
            rows = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
            scores.append(logprobs[rows, ids[0, len(prompt) :]].numpy())
        return scores

    @torch.no_grad()
    def perturb(self, seed: int, scale: float = 1.0) -> None:
        self.kept = {name: value.clone() for name, value in self.model.named_parameters()}
        torch.manual_seed(seed)
        for weight in self.model.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn_like(weight) * weight.std() * 0.02)

    @torch.no_grad()
    def restore(self) -> None:
        for name, weight in self.model.named_parameters():
            weight.copy_(self.kept[name])


def test_smollm2_samples_match_teacher_forcing_and_its_sync_passes_the_probe(smollm2, cluster, tmp_path):
    settings = Rollouts(engine="vllm", vllm={"max_num_seqs": 16, "cpu_kv_cache_gib": 0.5})
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    end = tokenizer.eos_token_id
    pool = VllmPool(
        settings, str(smollm2), dtype="float32", context_length=160, eos_token_ids=[end], threads=2
    )
    learner = Learner(AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval())
    prompts = []
    for left, right in ((2, 3), (14, 27), (6, 9)):
        question = [{"role": "user", "content": f"What is {left} + {right}?"}]
        text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
        prompts.append(Prompt(f"{left}+{right}", text, tuple(tokenizer(text).input_ids), str(left + right)))
    pool.ready()

    asked = [Request(prompt, (1, 2, 3, 4)) for prompt in prompts]
    rollouts = list(pool.generate(asked, Sampling(1.0, 24)))
    ids = {prompt.key: prompt.token_ids for prompt in prompts}
    sequences = [(ids[rollout.key], rollout.token_ids.tolist()) for rollout in rollouts]
    recorded = [rollout.logprobs for rollout in rollouts]
    forced = learner.score(sequences)
    gap = difference(forced, recorded)
    # Which side is off is told by both scoring the same sequences once more.
    again = pool.score_each(sequences)["vLLM worker 0"]
    blame = f"{difference(forced, learner.score(sequences))=} {difference(recorded, again)=}"
    assert gap.mean_abs < 1e-4, f"{gap} {blame}"
    assert gap.max_abs < 1e-3, f"{gap} {blame}"
    assert any(rollout.finish_reason == "stop" for rollout in rollouts)
    assert all((rollout.token_ids[-1] == end) == (rollout.finish_reason == "stop") for rollout in rollouts)

    def sync() -> None:
        learner.model.save_pretrained(tmp_path)
        pool.load_weights(WeightUpdate(1, str(tmp_path)))

    probe = ParityProbe(choose_sequences(prompts, len(tokenizer), seed=0), default_tolerance("float32"))
    result = probe.verify_startup(learner, pool, sync)
    assert result.mean_abs < 1e-4
    pool.close()
