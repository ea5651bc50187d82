"""Records of routes: their layout, what is refused, and vLLM's arrays. Small cases written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depo.moe.routes import check_routes, compact_dtype, force, unpad
from depo.rollout.vllm.worker import from_vllm
from depo.types import TrainSample

CPU = torch.device("cpu")


SAMPLE = TrainSample.of_completion([1, 2], [3, 4, 5, 6])


def record(n: int, first: int, layers: int = 2, top_k: int = 2) -> np.ndarray:
    """(n, layers, top_k) of distinct numbers from ``first`` on."""
    return np.arange(first, first + n * layers * top_k, dtype=np.uint8).reshape(n, layers, top_k)


def test_a_record_ends_one_token_before_its_sequence_does() -> None:
    # Two sequences of 5 and 3 tokens in rows of 6; completions of 3 and 1 tokens; a third has no record.
    first, second = record(2, 10), record(0, 0)
    forced = force([first, second, None], [5, 3, 6], 6, CPU)
    assert forced is not None
    assert forced.mask_N1.view(3, 6).tolist() == [
        [False, False, True, True, False, False],
        [False] * 6,
        [False] * 6,
    ]
    assert forced.chosen_LNK.shape == (2, 18, 2)
    assert forced.chosen_LNK.dtype == torch.int64
    assert forced.chosen_LNK[0, 2:4].tolist() == [[10, 11], [14, 15]]
    assert forced.chosen_LNK[1, 2:4].tolist() == [[12, 13], [16, 17]]


def test_nothing_recorded_is_nothing_to_force() -> None:
    assert force([None, record(0, 0)], [3, 2], 3, CPU) is None


def test_whole_sequences_survive_the_way_there_and_back() -> None:
    records, lengths = [record(4, 0), record(2, 100)], [5, 3]
    forced = force(records, lengths, 6, CPU)
    assert forced is not None
    for back, there in zip(unpad(forced.chosen_LNK.numpy(), lengths, 6), records, strict=True):
        assert np.array_equal(back, there)


def test_two_bytes_only_where_one_does_not_do() -> None:
    assert compact_dtype(256) is np.uint8
    assert compact_dtype(257) is np.uint16
    routes = np.full((1, 1, 1), 300, dtype=np.uint16)
    forced = force([routes], [2], 2, CPU)
    assert forced is not None
    assert int(forced.chosen_LNK.max()) == 300


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        (
            np.zeros((4, 2, 2), dtype=np.uint8),
            ["(4, 2, 2)", "(3, 2, 2)", "(5, 2, 2) with the prompt's", "6 tokens"],
        ),
        (np.zeros((3, 1, 2), dtype=np.uint8), ["(3, 1, 2)", "2 routed layers"]),
        (np.zeros((3, 2, 4), dtype=np.uint8), ["(3, 2, 4)", "2 experts a token"]),
        (np.zeros((3, 2, 2), dtype=np.float32), ["float32", "uint8"]),
        (np.full((3, 2, 2), 8, dtype=np.uint8), ["expert 8", "has 8"]),
    ],
)
def test_routes_that_do_not_fit_are_refused_by_name(routes: np.ndarray, says: list[str]) -> None:
    with pytest.raises(ValueError, match="row 7") as error:
        check_routes(routes, SAMPLE, layers=2, top_k=2, experts=8, what="row 7")
    for words in says:
        assert words in str(error.value)


def test_vllms_array_loses_its_prompt_and_its_dense_layers() -> None:
    # 3 prompt and 4 completion tokens; layers 0 (dense, all zero) to 2; one number a (token, layer, choice).
    routed = np.arange(6 * 3 * 2, dtype=np.uint8).reshape(6, 3, 2)
    routes = from_vllm(routed, prompt_tokens=3, tokens=4, layers=(1, 2))
    assert routes.shape == (3, 2, 2)
    assert routes.tolist() == [
        [[20, 21], [22, 23]],
        [[26, 27], [28, 29]],
        [[32, 33], [34, 35]],
    ]
    assert routes.flags["C_CONTIGUOUS"]
    check_routes(routes, SAMPLE, layers=2, top_k=2, experts=36, what="a completion of vLLM")


def test_a_completion_of_one_token_has_an_empty_record() -> None:
    assert from_vllm(np.zeros((3, 2, 2), dtype=np.uint8), 3, 1, (0, 1)).shape == (0, 2, 2)


@pytest.mark.parametrize(
    "routed", [None, np.zeros((7, 3, 2), np.uint8), np.zeros((6, 2, 2), np.uint8), np.zeros((6, 3), np.uint8)]
)
def test_an_array_of_vllm_that_does_not_fit_is_an_error(routed: np.ndarray | None) -> None:
    with pytest.raises(RuntimeError, match="routed_experts"):
        from_vllm(routed, prompt_tokens=3, tokens=4, layers=(1, 2))
