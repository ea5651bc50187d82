"""What is beside the published network: n-grams, several layers, and averaged weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from depo.estimators.encoder_inference import WeightAverage
from depo.estimators.encoder_network import LIKELIHOOD, LOG_CONCENTRATION, RATE, DifficultyNetwork, Words
from depo.estimators.encoder_options import encoder_options


def bucketed(*rows):
    return torch.tensor([bucket for row in rows for bucket in row]), torch.tensor([len(row) for row in rows])


def test_words_add_the_mean_weight_times_the_root_of_their_number():
    words = Words()
    with torch.no_grad():
        words.weight[[1, 5, 7]] = torch.tensor([[1.0, -1.0], [2.0, 0.5], [4.0, 0.0]])
    outputs = words(*bucketed([1, 5, 7, 9], [7]))
    expected_rate, expected_concentration = [(1 + 2 + 4) / 2, 4.0], [(-1 + 0.5) / 2, 0.0]
    assert outputs[:, RATE].tolist() == pytest.approx(expected_rate)
    assert outputs[:, LOG_CONCENTRATION].tolist() == pytest.approx(expected_concentration)
    assert outputs[:, LIKELIHOOD].tolist() == [0.0, 0.0]


def test_words_learn_as_torchs_adagrad_does():
    words = Words()
    dense = torch.nn.Parameter(torch.zeros(10, 2))
    reference = torch.optim.Adagrad([dense], lr=0.05)
    rng = np.random.default_rng(0)
    for _ in range(5):
        rows = [sorted(rng.choice(10, 4, replace=False).tolist()) for _ in range(6)]
        target = torch.from_numpy(rng.normal(size=(6, 3))).float()
        words.weight.grad = None
        ((words(*bucketed(*rows)) - target) ** 2).sum().backward()
        words.step(0.05)
        reference.zero_grad()
        sums = torch.stack([dense[row].sum(0) / 2 for row in rows])
        ((sums - target[:, [RATE, LOG_CONCENTRATION]]) ** 2).sum().backward()
        reference.step()
    assert float(dense.detach().abs().max()) > 0.1
    torch.testing.assert_close(words.weight.detach()[:10], dense.detach(), rtol=1e-4, atol=1e-6)
    assert not words.weight.detach()[10:].any()


class EachLayerItsNumber(torch.nn.Module):
    """A backbone of six layers: layer l turns token t into the vector (l, t)."""

    config = SimpleNamespace(num_hidden_layers=6)

    def forward(self, input_ids, attention_mask, output_hidden_states):
        tokens = input_ids.float()
        layers = [torch.stack([torch.full_like(tokens, layer), tokens], dim=2) for layer in range(7)]
        return SimpleNamespace(
            last_hidden_state=layers[-1], hidden_states=layers if output_hidden_states else None
        )


@pytest.mark.parametrize(("pooling", "layers"), [("last", [6]), ("spread", [2, 4, 6])])
def test_an_embedding_is_the_mean_over_real_tokens_of_the_chosen_layers(pooling, layers):
    options = encoder_options("paper", {"model": "m", "pooling": pooling})
    network = DifficultyNetwork(EachLayerItsNumber(), 2, options)
    embedding = network.embed(torch.tensor([[3, 5, 90], [2, 4, 6]]), torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert embedding.tolist() == [[x for layer in layers for x in (layer, 4.0)]] * 2
    assert network.judge(embedding).shape == (2, 3)


def test_averages_are_in_the_network_inside_and_its_own_weights_after():
    weight = torch.nn.Parameter(torch.tensor([0.0]))
    average = WeightAverage({"w": weight}, 0.9)
    expected = 0.0
    for update in range(1, 200):
        with torch.no_grad():
            weight += 1.0
        average.update(update)
        decay = min(0.9, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * update
        with average.in_place():
            assert weight.item() == pytest.approx(expected, rel=1e-4)
        assert weight.item() == update
    assert expected == pytest.approx(
        199 - 9, abs=0.1
    )  # a ramp is followed at a distance of 1/(1 − decay) − 1


def test_without_averaging_nothing_is_kept():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    average = WeightAverage({"w": weight}, 0.0)
    average.update(1)
    assert average.averages == {}
    with average.in_place():
        assert weight.item() == 1.0
