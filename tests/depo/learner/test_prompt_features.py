"""Against the plain path: the model's own logits and hidden states, one prompt at a time."""

import numpy as np
import pytest
import torch

from depo.learner.packing import Packing
from depo.learner.scoring import prompt_features
from depo.models.attention import use_packed_attention

PROMPTS = [(5, 6, 7), (9,), (3, 4, 5, 6, 7, 8, 2, 11), (12, 13)]


@pytest.mark.parametrize("architecture", ["qwen3_moe", "llama_tied"])
@pytest.mark.parametrize("budget", [8, 1000], ids=["many batches", "one batch"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_features_are_surprise_entropy_and_last_state(make_model, architecture, budget, layout):
    model = make_model(architecture)
    use_packed_attention(model)
    features_NF = prompt_features(model, PROMPTS, Packing(budget, layout, 0, torch.device("cpu")))
    assert features_NF.shape == (len(PROMPTS), 2 + 32)
    for prompt, features_F in zip(PROMPTS, features_NF, strict=True):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        logprobs = output.logits[0].log_softmax(-1)
        surprise = (
            -np.mean([logprobs[i, token] for i, token in enumerate(prompt[1:])]) if len(prompt) > 1 else 0
        )
        entropy = torch.distributions.Categorical(logits=output.logits[0, -1]).entropy()
        np.testing.assert_allclose(features_F[:2], [surprise, entropy], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(features_F[2:], output.hidden_states[-1][0, -1], rtol=1e-3, atol=1e-5)


def test_no_prompts_give_no_rows_and_an_empty_prompt_is_an_error(make_model):
    model, packing = make_model("llama"), Packing(8, "padded", 0, torch.device("cpu"))
    assert prompt_features(model, [], packing).shape == (0, 34)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        prompt_features(model, [(1, 2), ()], packing)


def test_the_learner_answers_under_its_current_weights(make_model, make_learner):
    learner = make_learner(make_model("llama"))
    before = learner.prompt_features(PROMPTS)
    learner.perturb(seed=1)
    assert np.abs(learner.prompt_features(PROMPTS) - before).max() > 1e-3
    learner.restore()
    np.testing.assert_array_equal(learner.prompt_features(PROMPTS), before)
