"""What a probe says, against enumeration, populations that are known, and ``depo replay``."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_probe import MISLABELLED, made_probe, made_rows, made_suite, row

from depo.cli import main
from depo.probe.command import NAME, suggested_recipe, suggestion
from depo.probe.figures import all_alike_chance, histogram, suspects, zero_variance
from depo.probe.replayed import TRACE, replayed, write_trace
from depo.probe.report import blocks, probe_report
from depo.recipe.loading import load_recipe
from depo.report.document import show, to_markdown
from depo.report.html import to_html
from depo.report.statistics import resample_weights
from depo.types import Prompt

N = 8
FEW_PAIRS = [("mopps", "thompson"), ("mopps", "greedy")]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """160 prompts: 64 out of reach (the first with a wrong gold answer), 32 sure, the others between."""
    directory = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("depo.probe.replayed.PAIRS", FEW_PAIRS)
        rate_N = np.array([0.0] * 64 + [1.0] * 32 + [0.2, 0.8] * 32)
        return made_probe(*made_rows(rate_N, N), N, directory), directory


@pytest.mark.parametrize("size", [2, 4, 6])
def test_zero_variance_is_the_share_of_all_groups_that_could_be_drawn(size: int) -> None:
    for right in range(7):
        groups = list(combinations([True] * right + [False] * (6 - right), size))
        share = np.mean([len(set(group)) == 1 for group in groups])
        assert all_alike_chance(np.array([6]), np.array([right]), size)[0] == pytest.approx(share)


def test_beyond_the_counts_a_beta_population_is_extrapolated_to_what_it_shows() -> None:
    rng = np.random.default_rng(3)
    p_N = rng.beta(0.3, 0.6, size=2000)
    n_N, c_N = np.full(2000, N), rng.binomial(N, p_N)
    found = zero_variance(n_N, c_N, 16, resample_weights(2000, 20, 0, ""))
    share, low, high = found["share"]
    assert found["by"] == "beta"
    assert found["fit"] == pytest.approx([0.3, 0.6], rel=0.15)
    assert share == pytest.approx(np.mean(p_N**16 + (1 - p_N) ** 16), abs=0.02)
    assert low < share < high
    assert found["check"][1] == pytest.approx(found["check"][2], abs=0.02)


def test_counts_are_used_while_nearly_all_prompts_have_as_many_verdicts() -> None:
    weights_RN = resample_weights(20, 10, 0, "")
    for short, by in ((2, "counts"), (3, "beta")):
        n_N = np.array([N] * (20 - short) + [3] * short)
        assert zero_variance(n_N, np.ones(20, dtype=int), N, weights_RN)["by"] == by
    nobody = np.zeros(20, dtype=int)
    assert zero_variance(nobody, nobody, N, weights_RN)["share"] == [None, None, None]


def test_when_all_are_wrong_the_interval_says_how_little_that_is() -> None:
    found = zero_variance(np.full(40, N), np.zeros(40, dtype=int), 16, resample_weights(40, 10, 0, ""))
    share, low, _ = found["share"]
    assert share == pytest.approx(1, abs=1e-3)
    assert low == pytest.approx(0.025 ** (1 / 40), abs=1e-3)  # Clopper and Pearson


def test_the_histogram_keeps_never_and_always_apart() -> None:
    found = histogram(np.array([4, 4, 4, 4, 0]), np.array([0, 1, 3, 4, 0]))
    assert [count for _, count in found] == [1, 0, 1, 0, 1, 0, 1]


def test_a_gold_answer_is_doubted_where_the_wrong_answers_agree(probed: tuple[dict[str, Any], Path]) -> None:
    (found,) = probed[0]["suspects"]
    assert (found["key"], found["answer"], found["votes"], found["n"]) == (MISLABELLED, "7", 6, N)


def test_one_right_answer_or_none_that_can_be_compared_raises_no_doubt() -> None:
    prompts, rows = [Prompt("p", "1+1", (), "2")], [row("p", i, "3", False) for i in range(7)]
    suite = made_suite(N)
    assert suspects(prompts, [*rows, row("p", 7, "2", True)], suite) == []
    assert len(suspects(prompts, rows, suite) or []) == 1
    function = suite.model_dump() | {"reward": {"type": "function", "path": "a:b"}}
    assert suspects(prompts, rows, type(suite).model_validate(function)) is None


def test_the_replay_is_that_of_depo_replay(probed: tuple[dict[str, Any], Path]) -> None:
    result, directory = probed
    out = directory / "replay.json"
    pair = ["--estimator", "mopps", "--selector", "greedy", "--split", "all", "--resamples", "2"]
    assert main(["replay", str(directory / TRACE), *pair, "--json", str(out)]) == 0
    theirs = json.loads(out.read_text())["estimators"]["mopps"]["censored"]
    ours = result["replay"]["pairs"][1]
    assert ours["informative"] == pytest.approx(
        [theirs["effective_ratio"], *theirs["intervals"]["effective_ratio"]]
    )
    assert ours["saved"][0] == pytest.approx(1 - result["replay"]["uniform"] / theirs["effective_ratio"])


def test_too_few_informative_groups_are_not_replayed(tmp_path: Path) -> None:
    write_trace(*made_rows(np.zeros(40), N), N, tmp_path / TRACE)
    assert replayed(tmp_path / TRACE, 0) == {"why_not": "0 groups of 4 were informative, it takes 30"}
    prompts, rows = made_rows(np.full(3, 0.5), 4)
    write_trace(prompts, [one | {"correct": None} for one in rows], 4, tmp_path / TRACE)
    assert "no prompt" in replayed(tmp_path / TRACE, 0)["why_not"]


def test_the_page_and_the_terminal_say_the_same(
    probed: tuple[dict[str, Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(json.dumps(probed[0], allow_nan=False))  # as it is stored
    show(*blocks(result))
    for text in (
        capsys.readouterr().out,
        to_markdown(probe_report(result), "probe"),
        to_html(probe_report(result)),
    ):
        for part in (
            "never right",
            "unbiased, from the counts",
            "Beta-binomial",
            "6 of 8",
            "greedy",
            "truncated",
        ):
            assert part in text


def test_advice_follows_from_the_figures(probed: tuple[dict[str, Any], Path]) -> None:
    def advised(share: float, **figures: float) -> dict[str, Any]:
        changed = {name: [value, None, None] for name, value in figures.items()}
        sizes = [{"group_size": size, "share": [share, 0, 1]} for size in (4, 8, 16)]
        return suggestion(probed[0] | {"zero_variance": sizes} | changed, made_suite(N), 20, 120)["recipe"]

    assert advised(0.4, truncated=0.0) == {"group_size": 4, "max_new_tokens": 64, "max_prompt_tokens": 56}
    longer = advised(0.6, truncated=0.2)
    assert longer == {"group_size": 16, "max_new_tokens": 100, "max_prompt_tokens": 20}, (
        "120 positions in all"
    )
    assert advised(0.1, truncated=0.0)["selection"] == "uniform"


def test_the_suggested_recipe_is_one(
    probed: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    changes = {"system": 'Say "yes".', "raw": True, "engine": "vllm", "template": "Q: {question}\n"}
    suite = made_suite(N).model_copy(update=changes)
    text = suggested_recipe(Path("mine.yaml"), "a/b", suite, 1000, probed[0])
    Path("mine.yaml").write_text(text)
    recipe = load_recipe("mine.yaml")
    assert (recipe.data.template, recipe.data.system, recipe.data.raw) == (
        "Q: {question}\n",
        'Say "yes".',
        True,
    )
    assert recipe.batch.group_size == probed[0]["recipe"]["group_size"]
    assert recipe.rollout.max_new_tokens == 100, "an eighth was cut at 64; the model has room for 100"
    assert recipe.rollout.engine == "vllm"
    assert f"# {probed[0]['advice'][0]}" in text
    assert suite.benchmarks[NAME].source == recipe.data.train
