"""What a resumed evaluation may change, and how the rest is told: key and both values."""

from __future__ import annotations

from pathlib import Path

import pytest

from depo.errors import UserError
from depo.evaluation.evaluate import check_resumable
from depo.evaluation.model import Target, fingerprint
from depo.files import write_json
from depo.recipe.schema.evaluation import Suite
from depo.recipe.suites import dump_suite

BASE = {
    "name": "sums",
    "sampling": {"n": 2, "temperature": 1.0},
    "benchmarks": {"a": {"source": "sums.jsonl"}, "b": {"source": "sums.jsonl", "template": "Q {question}"}},
}


@pytest.fixture
def begun(tmp_path: Path) -> tuple[Target, Path]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "suite.yaml").write_text(dump_suite(Suite.model_validate(BASE)))
    identity = {"schema_version": 1, "model": "model", "fingerprint": fingerprint(str(model))}
    write_json(directory / "evaluation.json", identity)
    return Target("model", str(model)), directory


def changed(**keys: object) -> Suite:
    return Suite.model_validate(BASE | keys)


@pytest.mark.parametrize(
    ("suite", "complaint"),
    [
        (changed(sampling={"n": 2, "temperature": 0.5}), "sampling.temperature was 1.0, now 0.5; what"),
        (
            changed(dtype="float32", seed=3),
            "seed was 0, now 3; dtype was 'bfloat16', now 'float32'; what",
        ),
        (
            changed(benchmarks={**BASE["benchmarks"], "b": {"source": "sums.jsonl"}}),
            "benchmarks.b.template was 'Q {question}', now None; what",
        ),
        (
            changed(
                benchmarks=BASE["benchmarks"]
                | {"a": {"source": {"type": "file", "path": "sums.jsonl", "limit": 5}}}
            ),
            "benchmarks.a.source.limit was None, now 5; what",
        ),
        (changed(reward={"type": "exact"}), "reward.type was 'math', now 'exact'; what"),
        (changed(sampling={"n": 1, "temperature": 1.0}), "sampling.n 1 is less than the 2 of"),
        (
            changed(benchmarks={"a": {"source": "sums.jsonl"}}),
            "has the benchmarks a, b, now asked for are a; ask for the same (--only a,b), or name",
        ),
    ],
)
def test_a_refused_resumption_names_key_and_both_values(begun, suite, complaint):
    with pytest.raises(UserError) as caught:
        check_resumable(begun[0], suite, begun[1])
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("--resume: ")


def test_another_model_is_told_by_both_names_and_fingerprints(begun):
    target, directory = begun
    before = fingerprint(target.model)
    (Path(target.model) / "config.json").write_text("{ }")
    with pytest.raises(UserError) as caught:
        check_resumable(target, changed(), directory)
    assert before in str(caught.value)
    assert fingerprint(target.model) in str(caught.value)


def test_more_samples_other_sources_and_other_hardware_are_no_change(begun):
    check_resumable(
        begun[0],
        changed(
            sampling={"n": 8, "temperature": 1.0},
            k=[1, 8],
            threads=2,
            transformers={"batch_size": 4},
            benchmarks={"a": {"source": "moved.jsonl"}, "b": {**BASE["benchmarks"]["b"], "source": "x/y"}},
        ),
        begun[1],
    )
