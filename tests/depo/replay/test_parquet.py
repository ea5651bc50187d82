"""What is read out of Parquet files, and what is said about those that cannot be read."""

from hashlib import sha256
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from depo.errors import UserError
from depo.replay.parquet import read_parquet
from depo.replay.trace import split_rows


def read(path: Path, group_size=None, where=None, prior=None, visits=None, seed=0):
    return read_parquet(path, group_size, where or {}, prior, visits, seed)


def test_training_trace_offers_as_many_steps_as_every_prompt_was_visited(parquet):
    path = parquet(prompt_id=["a", "b"], n=[8, 8], k_correct=[[1, 2, 3], [4, 5]], question=["A", "B"])
    trace, size = read(path)
    assert size == 8
    assert trace.successes_NT.tolist() == [[1, 2], [4, 5]]
    assert [prompt.text for prompt in trace.prompts] == ["A", "B"]
    assert trace.steps_T.tolist() == [1, 2]
    assert read(path, visits=1)[0].successes_NT.tolist() == [[1], [4]]
    with pytest.raises(UserError, match="--visits 3"):
        read(path, visits=3)


def test_a_prompt_that_the_trace_holds_twice_counts_once_and_the_reader_is_told(parquet):
    trace, _ = read(parquet(prompt_id=["a", "b", "a"], n=[8] * 3, k_correct=[[1], [2], [3]]))
    assert [prompt.key for prompt in trace.prompts] == ["a", "b"]
    assert trace.successes_NT.tolist() == [[1], [2]]
    assert trace.notes == ("1 rows dropped that repeat a prompt; its first row stays",)
    assert trace.prompts[0].text == ""


def test_smaller_groups_are_drawn_without_replacement_and_larger_ones_are_refused(parquet):
    path = parquet(prompt_id=["a", "b"], n=[8, 8], k_correct=[[3] * 4000, [8] * 4000])
    trace, size = read(path, group_size=4)
    assert size == 4
    assert (trace.successes_NT[1] == 4).all()
    share = np.bincount(trace.successes_NT[0], minlength=5) / 4000
    np.testing.assert_allclose(share, [comb(3, k) * comb(5, 4 - k) / comb(8, 4) for k in range(5)], atol=0.03)
    with pytest.raises(UserError, match="--group-size 16"):
        read(path, group_size=16)


def test_count_file_draws_binomial_visits_keyed_by_seed_and_prompt(parquet):
    path = parquet(prompt_id=["a", "b", "c"], n=[128] * 3, k_correct=[32, 0, 128])
    trace, _ = read(path, visits=5000)
    share = np.bincount(trace.successes_NT[0], minlength=9) / 5000
    np.testing.assert_allclose(share, [comb(8, k) * 0.25**k * 0.75 ** (8 - k) for k in range(9)], atol=0.03)
    assert (trace.successes_NT[1] == 0).all()
    assert (trace.successes_NT[2] == 8).all()
    assert trace.rate_N.tolist() == [0.25, 0.0, 1.0]
    shorter, _ = read(path, visits=3)
    assert shorter.successes_NT.tolist() == trace.successes_NT[:, :3].tolist()
    other, _ = read(path, visits=5000, seed=1)
    assert other.successes_NT[0].tolist() != trace.successes_NT[0].tolist()
    reordered, _ = read(
        parquet("r.parquet", prompt_id=["c", "a"], n=[128] * 2, k_correct=[128, 32]), visits=9
    )
    assert reordered.successes_NT[1].tolist() == trace.successes_NT[0, :9].tolist()


def test_prompts_with_repeated_counts_are_left_out_altogether(parquet):
    path = parquet(prompt_id=["a", "b", "a"], n=[8] * 3, k_correct=[1, 2, 7], rep=[0, 0, 1])
    trace, _ = read(path)
    assert [prompt.key for prompt in trace.prompts] == ["b"]
    assert "1 prompts with repeated counts" in trace.notes[0]


def test_several_models_are_an_error_that_names_the_choices_and_where_chooses(parquet):
    path = parquet(
        prompt_id=["a", "a", "a"],
        model=["small", "large", "large"],
        temperature=np.array([0.7, 0.7, 1.0], dtype=np.float32),
        n=[8] * 3,
        k_correct=[1, 2, 3],
    )
    with pytest.raises(UserError, match=r"--where: model: large, small; temperature: 0.7, 1"):
        read(path)
    with pytest.raises(UserError, match=r"temperature: 0.7, 1$"):
        read(path, where={"model": "large"})
    trace, _ = read(path, where={"model": "large", "temperature": "0.7"})
    assert trace.rate_N.tolist() == [2 / 8]
    with pytest.raises(UserError, match=r"no such rows .* found large, small"):
        read(path, where={"model": "huge"})
    with pytest.raises(UserError, match="no column 'size'"):
        read(path, where={"size": "7"})


def test_prior_column_gives_pass_rates_and_none_where_it_is_empty(parquet):
    path = parquet(
        prompt_id=["a", "b"], n=[8, 8], k_correct=[1, 2], older=[64, None], rate=[0.5, float("nan")]
    )
    assert [prompt.prior for prompt in read(path, prior="older/128")[0].prompts] == [0.5, None]
    assert [prompt.prior for prompt in read(path, prior="rate")[0].prompts] == [0.5, None]
    with pytest.raises(UserError, match=r"holds 64, not a pass rate .* write older/n"):
        read(path, prior="older")
    with pytest.raises(UserError, match="no column 'missing'"):
        read(path, prior="missing")
    with pytest.raises(UserError, match="no pass rates"):
        read(path, prior="prompt_id")


def test_whole_numbers_are_ids_as_well_and_fixed_size_lists_are_lists(parquet):
    visits = pa.array([[1, 2], [3, 4]], type=pa.list_(pa.int64(), 2))
    trace, _ = read(parquet(prompt_id=[7, 12], n=[8, 8], k_correct=visits))
    assert [prompt.key for prompt in trace.prompts] == ["7", "12"]
    assert trace.successes_NT.tolist() == [[1, 2], [3, 4]]
    path = parquet(prompt_id=[7, 12], n=[8, 8], k_correct=[1, 2])
    assert [prompt.key for prompt in read(path)[0].prompts] == ["7", "12"]
    assert [prompt.key for prompt in read(path, where={"prompt_id": "12"})[0].prompts] == ["12"]


def test_counts_may_be_stored_as_floats_where_they_are_whole(parquet):
    trace, size = read(parquet(prompt_id=["a"], n=[8.0], k_correct=[[3.0, 8.0]]))
    assert (trace.successes_NT.tolist(), size) == ([[3, 8]], 8)


def test_questions_may_be_chat_messages(parquet):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    trace, _ = read(parquet(prompt_id=["a", "b"], n=[8, 8], k_correct=[[1], [2]], question=[asked, None]))
    assert [prompt.text for prompt in trace.prompts] == ["Be brief.\n\n1 + 1?", ""]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"prompt_id": ["a", "b"], "n": [8, 8], "k_correct": [0.0, 0.25]},
            r"k_correct holds 0\.25; counts are expected, for pass rates multiply by n",
        ),
        (
            {"prompt_id": ["a"], "n": [8], "k_correct": [[1.0, 0.5]]},
            r"k_correct holds 0\.5; counts are expected",
        ),
        (
            {"prompt_id": ["a"], "n": [8], "k_correct": [float("nan")]},
            "k_correct holds nan; counts are expected",
        ),
        ({"prompt_id": ["a"], "n": [8], "k_correct": ["few"]}, "k_correct holds values that are no counts"),
        ({"prompt_id": ["a"], "n": [[8]], "k_correct": [[1]]}, "n holds lists; one number a prompt"),
        ({"prompt_id": ["a"], "n": [8], "k_correct": [[1, None]]}, "'k_correct' has 1 empty values"),
        ({"prompt_id": ["a"], "n": [1], "k_correct": [[1, 0]]}, "n is 1; a group needs at least 2 rollouts"),
        ({"prompt_id": [0.5], "n": [8], "k_correct": [1]}, "'prompt_id' holds double; text or whole numbers"),
        (
            {
                "prompt_id": pa.array([], pa.string()),
                "n": pa.array([], pa.int64()),
                "k_correct": pa.array([], pa.list_(pa.int64())),
            },
            "no rows",
        ),
        (
            {
                "prompt_id": pa.array([], pa.string()),
                "n": pa.array([], pa.int64()),
                "k_correct": pa.array([], pa.int64()),
            },
            "no rows",
        ),
        ({"prompt_id": ["a"], "n": [8], "k_correct": [1], "rep": [1]}, "no prompts left"),
        (
            {"prompt_id": ["a"], "n": [8], "k_correct": [1], "question": [3]},
            "column 'question': it holds int",
        ),
        ({"prompt_id": ["a"], "n": [8]}, "column 'k_correct' is missing"),
        ({"prompt_id": ["a"], "n": [8], "k_correct": [9]}, "0 <= k_correct <= n"),
        ({"prompt_id": ["a"], "n": [8], "k_correct": [[1, 9]]}, "0 <= k_correct <= n"),
        ({"prompt_id": ["a"], "n": [8], "k_correct": [[]]}, "without visits"),
        ({"prompt_id": [None], "n": [8], "k_correct": [1]}, "'prompt_id' has 1 empty values"),
    ],
)
def test_unfit_files_are_named_with_what_is_wrong(parquet, columns, message):
    with pytest.raises(UserError, match=message):
        read(parquet(**columns))


def test_a_file_that_is_not_parquet_or_not_there_is_an_error(tmp_path):
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a Parquet file"):
        read(tmp_path / "text.parquet")
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.parquet")


def test_split_is_by_the_parity_of_the_keys_hash_and_an_empty_one_is_an_error(make_trace):
    trace = make_trace([[1]] * 40)
    odd = [int(sha256(f"p{i}".encode()).hexdigest()[-1], 16) % 2 == 1 for i in range(40)]
    assert split_rows(trace, "odd").tolist() == odd
    assert split_rows(trace, "even").tolist() == [not is_odd for is_odd in odd]
    assert split_rows(trace, "all").all()
    with pytest.raises(UserError, match="no prompts in split 'odd'"):
        split_rows(trace.take(~split_rows(trace, "odd")), "odd")
