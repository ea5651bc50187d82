from __future__ import annotations

import pytest

from benchmarks.learner_memory import peak

VOCABULARY, CHUNK = 1000, 100


@pytest.mark.parametrize("chunks", [4, 40])
def test_three_tensors_of_a_chunk_exist_at_once_however_many_chunks_there_are(chunks: int) -> None:
    """Beside them: states and their gradient, 8 numbers each, targets, results; twice the head's gradient."""
    tokens = chunks * CHUNK
    beside = 4 * tokens * (2 * 8 + 2 + 6) + 2 * 4 * 8 * VOCABULARY
    assert (
        12 * CHUNK * VOCABULARY
        <= peak(tokens, VOCABULARY, 8, CHUNK * VOCABULARY)
        <= 12 * CHUNK * VOCABULARY + beside
    )


def test_whole_logits_take_three_times_their_size() -> None:
    assert peak(4000, VOCABULARY, 8, 4000 * VOCABULARY) >= 12 * 4000 * VOCABULARY
