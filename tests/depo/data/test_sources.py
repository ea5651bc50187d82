"""Files as tables: formats, columns, and one clear line for whatever is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depo.data import load_prompts
from depo.errors import UserError
from depo.recipe.schema import Columns, Data, HubSource

STRUCT_ROWS = [
    {"question": "2+2?", "reward_model": {"ground_truth": "4", "style": "rule"}},
    {"question": "3+3?", "reward_model": {"ground_truth": "6", "style": "rule"}},
]


def load(path: Path, tokenizer, columns: dict | None = None, **options):
    data = Data.model_validate(
        {
            "train": {"type": "file", "path": path, "columns": columns or {}, **options},
            "template": "{question}",
        }
    )
    return load_prompts(data.train, data, tokenizer)


def pairs(prompts) -> list[tuple[str, str]]:
    return [(prompt.text, prompt.reference) for prompt in prompts]


def write_struct_file(directory: Path, suffix: str) -> Path:
    path = directory / f"rows{suffix}"
    match suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(STRUCT_ROWS), path)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in STRUCT_ROWS))
        case ".json":
            path.write_text(json.dumps(STRUCT_ROWS))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_answer_inside_a_struct_is_found_by_its_usual_name(tmp_path, tokenizer, suffix):
    prompts, _ = load(write_struct_file(tmp_path, suffix), tokenizer)
    assert pairs(prompts) == [("2+2?", "4"), ("3+3?", "6")]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json"])
def test_a_dotted_column_descends_into_a_struct(tmp_path, tokenizer, suffix):
    prompts, _ = load(write_struct_file(tmp_path, suffix), tokenizer, {"answer": "reward_model.style"})
    assert pairs(prompts) == [("2+2?", "rule"), ("3+3?", "rule")]


def test_a_column_whose_own_name_has_a_dot_comes_before_a_struct_field(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "a.b": "flat", "a": {"b": "deep"}}))
    prompts, _ = load(path, tokenizer, {"answer": "a.b"})
    assert pairs(prompts) == [("q", "flat")]


def test_csv_answers_stay_text_and_cells_may_hold_commas_quotes_and_line_breaks(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    rows = [('a, "b"\nc', "007"), ("d", "1e5"), ("e", ""), ("f", "NA")]
    pd.DataFrame(rows, columns=["question", "answer"]).to_csv(path, index=False)
    prompts, report = load(path, tokenizer)
    assert pairs(prompts) == [('a, "b"\nc', "007"), ("d", "1e5"), ("f", "NA")]
    assert report.without_answer == 1


def test_jsonl_with_emoji_byte_order_mark_and_blank_lines(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    escaped = json.dumps({"problem": "two 😀?", "answer": "😀😀"})
    assert "\\ud83d" in escaped  # as a surrogate pair, which must come together again
    literal = json.dumps({"problem": "加é", "answer": "1"}, ensure_ascii=False)
    path.write_text(f"\ufeff{escaped}\n\n{literal}\n", encoding="utf-8")
    prompts, _ = load(path, tokenizer)
    assert pairs(prompts) == [("two 😀?", "😀😀"), ("加é", "1")]


def test_numbers_and_lists_become_text_as_written(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    answers = ["27", "3.10", "-4", '["$2$"]', '["1", "2"]', "true", "12345678901234567890"]
    path.write_text("\n".join(f'{{"question": "q{i}", "answer": {a}}}' for i, a in enumerate(answers)))
    prompts, _ = load(path, tokenizer)
    references = [prompt.reference for prompt in prompts]
    assert references == ["27", "3.10", "-4", "$2$", "1, 2", "True", "12345678901234567890"]


def test_whole_floats_of_a_parquet_column_lose_their_point(tmp_path, tokenizer):
    path = tmp_path / "rows.parquet"
    table = pd.DataFrame({"question": ["a", "b", "c"], "answer": [27.0, 0.5, float("nan")]})
    table.to_parquet(path)
    prompts, report = load(path, tokenizer)
    assert pairs(prompts) == [("a", "27"), ("b", "0.5")]
    assert report.without_answer == 1


def test_null_nan_blank_and_empty_answers_are_dropped_and_counted(tmp_path, tokenizer):
    path = tmp_path / "rows.jsonl"
    answers = ["null", "NaN", '"  "', "[]", "[null]", '"5"']
    lines = [f'{{"question": "q{i}", "answer": {a}}}' for i, a in enumerate(answers)]
    lines += [
        '{"question": "no key at all"}',
        '{"question": null, "answer": "1"}',
        '{"question": " ", "answer": "1"}',
    ]
    lines += ['{"question": "lone \\ud800 surrogate", "answer": "1"}']
    path.write_text("\n".join(lines))
    prompts, report = load(path, tokenizer)
    assert pairs(prompts) == [("q5", "5")]
    assert (report.read, report.kept, report.without_answer, report.without_prompt) == (10, 1, 6, 3)


def test_prior_pass_rates_are_read_and_checked(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer,rate\na,1,0.25\nb,2,\n")
    prompts, _ = load(path, tokenizer, {"prior": "rate"})
    assert [prompt.prior for prompt in prompts] == [0.25, None]
    path.write_text("question,answer,rate\na,1,0.25\nb,2,25\n")
    with pytest.raises(UserError, match=r"column rate of rows.csv, row 2: 25 is not a pass rate"):
        load(path, tokenizer, {"prior": "rate"})


def test_limit_takes_the_first_rows(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\na,1\nb,2\nc,3\n")
    prompts, report = load(path, tokenizer, limit=2)
    assert pairs(prompts) == [("a", "1"), ("b", "2")]
    assert report.read == 2


def test_a_missing_column_error_lists_the_columns_there_are(tmp_path, tokenizer):
    path = write_struct_file(tmp_path, ".parquet")
    with pytest.raises(UserError) as error:
        load(path, tokenizer, {"answer": "gold"})
    assert str(error.value) == (
        "data.train.columns.answer: no column 'gold'; rows.parquet has question, reward_model, "
        "reward_model.ground_truth, reward_model.style"
    )


def test_columns_without_a_usual_name_must_be_named(tmp_path, tokenizer):
    path = tmp_path / "rows.csv"
    path.write_text("aufgabe,answer\na,1\n")
    with pytest.raises(UserError, match=r"data\.train\.columns\.prompt: .*rows\.csv has aufgabe, answer"):
        load(path, tokenizer)


def test_a_whole_struct_as_answer_is_an_error_that_names_its_fields(tmp_path, tokenizer):
    path = write_struct_file(tmp_path, ".jsonl")
    with pytest.raises(UserError, match=r"column reward_model .*row 1.*ground_truth, style"):
        load(path, tokenizer, {"answer": "reward_model"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b"", "rows.jsonl holds no rows"),
        ("rows.json", b"[]", "rows.json holds no rows"),
        ("rows.csv", b"", "rows.csv holds no rows"),
        ("rows.csv", b"question,answer\n", "rows.csv holds no rows"),
        ("rows.jsonl", b'{"question": "a", "answer": "1"}\n{"question"\n', "line 2 is not JSON"),
        ("rows.jsonl", b"[1]\n", "line 1 holds no JSON object"),
        ("rows.json", b'{"question": "a"}\n{"question": "b"}\n', r"needs the name \.jsonl"),
        ("rows.json", b'{"question": "a"}', "must hold a list of objects"),
        ("rows.parquet", b"not parquet", r"cannot read .*rows\.parquet"),
        ("rows.csv", b"question,answer\na,1,2,3\n", "line 2 has more cells than the header"),
        ("rows.jsonl", b'{"question": "\xff"}', "not UTF-8"),
        ("rows.txt", b"a", r"must end in \.jsonl"),
    ],
)
def test_unusable_files_are_one_line_naming_the_key_and_the_file(tmp_path, tokenizer, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(path, tokenizer)
    text = str(error.value)
    assert text.startswith("data.train")
    assert name in text
    assert "\n" not in text


def test_missing_files_and_directories_are_named(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"data\.train: file .*none\.parquet does not exist"):
        load(tmp_path / "none.parquet", tokenizer)
    with pytest.raises(UserError, match="is a directory"):
        load(tmp_path, tokenizer)


def test_errors_name_the_key_of_the_source_that_was_read(tmp_path, tokenizer):
    data = Data.model_validate({"train": str(tmp_path / "none.csv")})
    with pytest.raises(UserError, match=r"^evaluation\.sets\.0\.source: "):
        load_prompts(data.train, data, tokenizer, where="evaluation.sets.0.source")


def test_a_hub_data_set_that_cannot_be_had_is_one_line(monkeypatch, tokenizer):
    # No network is needed to see that there is none: the hub client's offline switch.
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)
    source = HubSource(id="depo-tests/does-not-exist", columns=Columns())
    data = Data(train=source)
    with pytest.raises(UserError, match=r"^data\.train: .*depo-tests/does-not-exist") as error:
        load_prompts(source, data, tokenizer)
    assert "\n" not in str(error.value)


def test_hub_data_sets_read_like_files(tmp_path, tokenizer):
    # `datasets` opens a local directory the way it opens an id of the hub.
    pq.write_table(pa.Table.from_pylist(STRUCT_ROWS), tmp_path / "train.parquet")
    source = HubSource(id=str(tmp_path))
    prompts, _ = load_prompts(source, Data(train=source), tokenizer)
    assert pairs(prompts) == [("2+2?", "4"), ("3+3?", "6")]
    wrong_split = HubSource(id=str(tmp_path), split="dev")
    with pytest.raises(UserError, match=r"^data\.train: cannot load data set .*dev"):
        load_prompts(wrong_split, Data(train=wrong_split), tokenizer)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("depth", [990, 100_000])
def test_values_nested_without_end_are_one_line(tmp_path, tokenizer, suffix, opening, closing, depth):
    row = f'{{"question": "2+2?", "answer": {opening * depth}4{closing * depth}}}'
    path = tmp_path / f"rows{suffix}"
    path.write_text(row if suffix == ".jsonl" else f"[{row}]")
    with pytest.raises(UserError, match=r"^data\.train: .*(nested too deeply|struct)") as caught:
        load(path, tokenizer)
    assert "\n" not in str(caught.value)
