"""Against the model's own logits, one sequence at a time."""

import numpy as np
import pytest
import torch

from depo.learner.scoring import answer_logprobs

PROMPTS = [(5, 6, 7), (9,), (3, 4, 5, 6, 7, 8, 2, 11)]
SEQUENCES = [
    (PROMPTS[0], (8, 1)),
    (PROMPTS[2], (9, 10, 11, 1)),
    (PROMPTS[0], (8, 9, 10, 11, 12, 1)),
    (PROMPTS[1], (1,)),
    (PROMPTS[0], (1,)),
    (PROMPTS[2], (9, 10, 12)),
]


def expected(model, sequences, temperature):
    found = []
    for prompt, answer in sequences:
        with torch.no_grad():
            logits_SV = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].double() / temperature
        logprobs_SV = logits_SV.log_softmax(-1)
        found.append(sum(float(logprobs_SV[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)))
    return found


@pytest.mark.parametrize("architecture", ["qwen3_moe", "qwen3_next", "llama_tied"])
@pytest.mark.parametrize("tokens_per_batch", [8, 30, 1000], ids=["a pass each", "some passes", "one pass"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_answers_are_as_likely_as_one_by_one(make_model, architecture, tokens_per_batch, temperature):
    model = make_model(architecture)
    logprobs_N = answer_logprobs(
        model, SEQUENCES, temperature=temperature, tokens_per_batch=tokens_per_batch, pad_token_id=0
    )
    assert logprobs_N.dtype == np.float64
    np.testing.assert_allclose(logprobs_N, expected(model, SEQUENCES, temperature), atol=1e-4)


def test_answers_of_a_token_need_no_second_pass_and_none_no_first(make_model):
    model = make_model("llama")
    single = [(prompt, (1,)) for prompt in PROMPTS]
    kwargs = {"temperature": 1.0, "tokens_per_batch": 100, "pad_token_id": 0}
    np.testing.assert_allclose(
        answer_logprobs(model, single, **kwargs), expected(model, single, 1.0), atol=1e-4
    )
    assert answer_logprobs(model, [], **kwargs).shape == (0,)


def test_what_has_no_tokens_is_an_error(make_model):
    kwargs = {"temperature": 1.0, "tokens_per_batch": 100, "pad_token_id": 0}
    with pytest.raises(ValueError, match="sequence 1 has no answer"):
        answer_logprobs(make_model("llama"), [((3,), (4,)), ((3,), ())], **kwargs)
    with pytest.raises(ValueError, match="sequence 0 has no prompt"):
        answer_logprobs(make_model("llama"), [((), (4,))], **kwargs)


def test_the_learner_answers_under_its_current_weights_as_score_does(make_model, make_learner):
    learner = make_learner(make_model("qwen3_moe"))
    before_N = learner.answer_logprobs(SEQUENCES, 0.8)
    np.testing.assert_allclose(before_N, [row.sum() for row in learner.score(SEQUENCES, 0.8)], atol=1e-4)
    learner.perturb(seed=1)
    assert np.abs(learner.answer_logprobs(SEQUENCES, 0.8) - before_N).max() > 1e-3
