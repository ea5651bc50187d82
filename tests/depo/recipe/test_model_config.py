"""How long a sequence a model takes, by its config.json."""

from __future__ import annotations

import pytest

from depo.recipe.model_shape import positions

LLAMA_3_1 = {
    "max_position_embeddings": 131072,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
}
QWEN_2_5_WITH_YARN = {
    "max_position_embeddings": 32768,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
}
PLAIN = {"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (LLAMA_3_1, 131072),  # as its model card says: 128k
        (QWEN_2_5_WITH_YARN, 131072),  # as its model card says: 131,072 with this rope_scaling
        (PLAIN, 8192),
        ({"max_position_embeddings": 2048, "rope_scaling": None}, 2048),
        ({"model_type": "mamba"}, None),
    ],
)
def test_positions(config: dict[str, object], tokens: int | None) -> None:
    assert positions(config) == tokens
