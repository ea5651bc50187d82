from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from depo.learner.layout import split_by_tokens
from depo.learner.packing import Packing, pad_values, split_groups, unpad_values
from depo.types import TrainSample

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=80).map(np.array)


@given(LENGTHS, st.integers(1, 200))
def test_every_row_is_in_one_microbatch_within_the_budget(lengths: np.ndarray, budget: int) -> None:
    parts = split_by_tokens(np.arange(len(lengths)), lengths, budget)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= budget for rows in parts)


@given(LENGTHS, st.integers(1, 200))
def test_the_cut_is_by_length_and_does_not_depend_on_where_rows_lie_in_memory(
    lengths: np.ndarray, budget: int
) -> None:
    parts = split_by_tokens(np.arange(len(lengths)), lengths, budget)
    joined = lengths[np.concatenate(parts)]
    assert (np.diff(joined) <= 0).all()
    again = split_by_tokens(np.arange(len(lengths)), lengths.copy(), budget)
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]


@given(LENGTHS, st.integers(1, 200))
def test_packed_rows_fill_the_budget_with_their_own_tokens(lengths: np.ndarray, budget: int) -> None:
    parts = split_by_tokens(np.arange(len(lengths)), lengths, budget, packed=True)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    sums = [lengths[rows].sum() for rows in parts]
    assert all(len(rows) == 1 or total <= budget for rows, total in zip(parts, sums, strict=True))
    assert all(total + lengths[rest[0]] > budget for total, rest in zip(sums, parts[1:], strict=False))


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    parts = split_by_tokens(np.arange(3), np.array([4, 100, 5]), 10)
    assert [part.tolist() for part in parts] == [[1], [2, 0]]


def test_padding_ends_a_microbatch_although_the_budget_has_room() -> None:
    lengths = np.array([1000] * 2 + [10] * 100)
    parts = split_by_tokens(np.arange(102), lengths, 1_000_000)
    assert [part.tolist() for part in parts] == [[0, 1], list(range(2, 102))]


def test_a_pass_of_a_gpu_bears_more_padding() -> None:
    """Padding of 400 tokens costs more than another pass on a CPU, and less than one there."""
    batch = [TrainSample.of_completion([5], [7] * length) for length in (499, 99)]
    for device, expected in (("cpu", [[0], [1]]), ("cuda", [[0, 1]])):
        packing = Packing(10_000, "padded", pad_token_id=0, device=torch.device(device))
        assert [part.tolist() for part in packing.cut(np.arange(2), batch)] == expected


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 5))
def test_minibatches_split_the_rows_but_never_a_group(groups: int, count: int, epoch: int) -> None:
    group_of_row = np.repeat(np.arange(groups), 3)
    parts = split_groups(group_of_row, count, run_seed=1, step=2, epoch=epoch)
    assert sorted(np.concatenate(parts).tolist()) == list(range(3 * groups))
    assert len(parts) == min(groups, count)
    held = [set(group_of_row[rows].tolist()) for rows in parts]
    assert sum(map(len, held)) == groups
    assert max(map(len, held)) - min(map(len, held)) <= 1


def test_epochs_and_steps_shuffle_differently_and_repeatably() -> None:
    groups = np.arange(12)
    cut = {
        key: [rows.tolist() for rows in split_groups(groups, 3, 1, *key)] for key in ((0, 0), (0, 1), (1, 0))
    }
    assert cut[0, 0] != cut[0, 1] != cut[1, 0] != cut[0, 0]
    assert cut[0, 1] == [rows.tolist() for rows in split_groups(groups, 3, 1, 0, 1)]


def test_collate_pads_right_and_values_survive_the_round_trip() -> None:
    samples = [TrainSample.of_completion([5, 6], [8]), TrainSample.of_completion([7], [9, 3, 4])]
    turns = np.array([False, True, True, False, False, True])
    samples.append(TrainSample(np.array([2, 3, 4, 5, 6, 1]), turns, np.zeros(6, np.float32)))
    packing = Packing(100, "padded", pad_token_id=0, device=torch.device("cpu"))
    batch = packing.collate(np.array([2, 1, 0]), samples)
    assert batch.tokens_BS.tolist() == [[2, 3, 4, 5, 6, 1], [7, 9, 3, 4, 0, 0], [5, 6, 8, 0, 0, 0]]
    assert batch.lengths_B.tolist() == [6, 4, 3]
    assert batch.mask_BT.tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert batch.places_BT[batch.mask_BT].tolist() == [1, 2, 5, 1, 2, 3, 2]
    values = [np.array([-2.0, -3.0, -4.0]), np.array([-5.0, -6.0, -7.0]), np.array([-1.5])]
    padded = pad_values(values, batch.mask_BT)
    assert padded.tolist() == [[-2.0, -3.0, -4.0], [-5.0, -6.0, -7.0], [-1.5, 0, 0]]
    assert [row.tolist() for row in unpad_values(padded, batch.mask_BT)] == [v.tolist() for v in values]
