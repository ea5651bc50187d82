"""The three outcomes on hand-written answers, and self-consistency on real data sets."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from depo import reward
from depo.reward.answers import TAIL, tail
from depo.reward.base import Sample, score_one
from depo.reward.math import MathReward

THOUGHT = "<think>\nThere are 3 boxes of 4, 2 are gone, so 12 - 2 = 10. Once more: 4 apples.\n</think>\n"


@pytest.fixture(scope="module")
def pool() -> Iterator[reward.VerifierPool]:
    with reward.VerifierPool({"type": "math"}, workers=2, timeout=5.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def math_reward() -> reward.Reward:
    return reward.build({"type": "math"})


def verdict(math_reward: reward.Reward, completion: str, reference: str) -> str:
    (score,) = math_reward.score([reward.Sample(completion, reference, 5, "stop", 100)])
    if score.correct is None:
        assert math.isnan(score.value)
        assert score.detail
        return "unscorable"
    assert score.value == float(score.correct)
    return "right" if score.correct else "unparseable" if score.unparseable else "wrong"


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        (r"so \boxed{42}", "42"),
        (r"\boxed{1} no, \boxed{42}", "42"),
        ("The answer is 42.", "42"),
        ("She has 48/2 = $24 and then $48, together 72 dollars.", "72"),
        ("48 + 24 = 72\n#### 72", "72"),
        ("so it is $\\frac{1}{2}$", "0.5"),
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{1234}", "1,234"),
        ("The answer is 1,234.", "1234"),
        (r"\boxed{42}", "He adds 40 and 2 to get <<40+2=42>>42.\n#### 42"),
        (r"\boxed{42}", r"\boxed{42}"),
        (r"\boxed{42}", "$42$"),
        (r"\boxed{2, 1}", "$1$, $2$"),
        (r"\boxed{x = 5}", "5"),
        (r"\boxed{5}", "x = 5"),
        (r"\boxed{\$18.90}", r"\$18.90"),
        (r"\boxed{3.83e35}", r"3.83 \times 10^{35}"),
        (r"\boxed{3.83 \times 10^{35}}", "3.83e35"),
        (r"\boxed{5e-7}", "0.0000005"),
        (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}"),
        (r"\boxed{4\text{ apples}}", "4"),
        (r"\boxed{(x+1)^2}", "x^2 + 2x + 1"),
        (r"\boxed{5} or \boxed{6", "5"),
        (r"\boxed{34}", "34."),
        (r"\boxed{34}", "#### 34,"),
        (r"\boxed{5.}", "5"),
        (r"\boxed{5 ;}", "5"),
        ("48 + 24 = 72\n#### 72.", "72"),
        (r"\boxed{380000}", "3.8e5."),
        (r"\boxed{5\,}", "5"),
        (r"\boxed{(-\infty, 0) \cup \{1\}}", r"$(-\infty, 0) \cup\{1\}$."),
        (f"{THOUGHT}<answer>10</answer>", "10"),
        (f"{THOUGHT}<answer> 10 </answer>", "10"),
        ("<answer>-5</answer>", "-5"),
        ("<answer>1,234</answer>", "1234"),
        ("<answer>1/2</answer>", "0.5"),
        ("<answer>x+1</answer>", "1 + x"),
        (r"<answer>\frac{1}{2}</answer>", "0.5"),
        ("<answer>The answer is $\\frac{1}{2}$.</answer>", "0.5"),
        ("<answer>10 apples</answer>", "10"),
        (r"<answer>7</answer> or \boxed{10}", "10"),
        ("12 and eats 2.\nAnswer:10", "10"),
        ("12 less 2, which leaves `10`.", "10"),
        ("12 less 2.\n\n**Answer:**10", "10"),
        ("12 less 2.\nFinal answer: (10)", "10"),
        ("12 less 2 is *10*", "10"),
        ('12 less 2 is "10".', "10"),
        ("12 apples are left (3 of them red).", "12"),
        ("At 10:30 there come 7", "7"),
        ("so f(2) = 3", "3"),
        ("ratio 5, problem #3: the answer is 9", "9"),
        ("The answer is −5.", "-5"),
        (r"\boxed{90°}", "90"),
        (r"\boxed{90°}", r"90^\circ"),
        (r"\boxed{90^\circ}", "90°"),
        ("#### Step 2: Conclude\nThe answer is **7**.", "7"),
        ("#### 3. Solve for x\n\nThe final answer is $7$.", "7"),
        ("#### Final answer:\n\n$7$", "7"),
        ("#### Answer: 7", "7"),
        ("12 less 2 makes\n\n#### Final Answer\n10", "10"),
        ("#### 42\n#### Explanation of 3 steps", "42"),
        ("####\n42", "42"),
        ("#### $42", "42"),
        ("#### x = 5", "5"),
        ("**73**", "73"),  # Math-Verify issue 76
        ("-1 + exp(16)", "e^{16} - 1"),  # Math-Verify issue 69
        (r"#### -\frac{1}{2}", "-0.5"),
    ],
)
def test_right_answers_in_their_many_forms(math_reward, completion: str, reference: str) -> None:
    assert verdict(math_reward, completion, reference) == "right"


@pytest.mark.parametrize(
    ("completion", "reference"),
    [
        (r"\boxed{43}", "42"),
        (r"the answer is 42, no: \boxed{41}", "42"),
        (r"\boxed{-42}", "42"),
        (r"\boxed{(2, 1)}", "(1, 2)"),
        (r"\boxed{0.0000001}", "0.0000005"),  # equal to 6 decimals
        (r"\boxed{9.1 \times 10^{-31}}", r"1.6 \times 10^{-19}"),  # equal to 15 decimals
        (r"\boxed{0}", r"1.6 \times 10^{-19}"),
        (r"\boxed{\frac{}{}}", "42"),
        (r"\boxed{1, 2, 3}", "1, 2, 3, ..."),
        (r"\boxed{3.4}", "34."),
        (r"\boxed{1 - \frac{1}{e}}", r"1 + \frac{1}{e}"),  # Math-Verify issue 82
    ],
)
def test_wrong_answers_are_wrong(math_reward, completion: str, reference: str) -> None:
    assert verdict(math_reward, completion, reference) == "wrong"


@pytest.mark.parametrize(
    "completion",
    ["", "no idea", r"\boxed{}", r"42 is wrong: \boxed{ }", "😀", "####", r"\boxed{.}", r"\boxed{😀}"],
)
def test_a_completion_without_an_answer_is_unparseable_and_counts_as_wrong(math_reward, completion) -> None:
    assert verdict(math_reward, completion, "42") == "unparseable"


@pytest.mark.parametrize("reference", ["0^{-1}", "(-5)!", r"\sum_{n=1}^{\infty} \frac{1}{n}"])
def test_a_formula_without_a_value_is_unscorable_as_reference_and_wrong_as_answer(
    math_reward, reference: str
) -> None:
    assert verdict(math_reward, r"\boxed{42}", reference) == "unscorable"
    assert verdict(math_reward, rf"\boxed{{{reference}}}", "42") == "wrong"
    assert verdict(math_reward, rf"\boxed{{{reference}, 2{reference}}}", "1, 2") == "wrong"
    assert verdict(math_reward, rf"\boxed{{{reference}}}", "x^2 + 1") == "wrong"


@pytest.mark.parametrize("reference", ["", "  ", r"\boxed{}", "She has many apples.\n####", "$ $"])
def test_a_reference_without_an_answer_is_unscorable_not_wrong(math_reward, reference: str) -> None:
    assert verdict(math_reward, r"\boxed{42}", reference) == "unscorable"


def test_a_long_completion_is_cut_at_a_line() -> None:
    text = "x\n" * TAIL + "the answer is 42"
    assert tail(text, TAIL).startswith("x\n")
    assert tail(text, TAIL).endswith("the answer is 42")
    assert TAIL - 2 <= len(tail(text, TAIL)) <= TAIL
    assert tail("short", TAIL) == "short"


def test_a_line_longer_than_the_tail_is_cut_where_the_tail_begins() -> None:
    assert tail("words " * TAIL + "the answer is 42\n", TAIL).endswith("the answer is 42\n")


def test_a_marked_answer_is_found_before_many_words(math_reward) -> None:
    assert verdict(math_reward, "#### 42\n" + "so it is\n" * TAIL, "42") == "unparseable"
    assert verdict(math_reward, "#### 42\n" + "so it is\n" * (TAIL // 5), "42") == "right"


@pytest.mark.parametrize("loop", ["1 ", "12 34 ", "1 2 3\n", "7"])
def test_a_loop_of_numbers_is_wrong_and_no_timeout(pool, sample, loop: str) -> None:
    (score,) = pool.score([sample(loop * (20_000 // len(loop)), "42")])
    assert (score.correct, score.unparseable) == (False, False)


STRANGE = {
    "a million characters": "x = 1 + 2 " * 100_000,
    "a million digits": "1" * 1_000_000,
    "a million dollars": "a$" * 500_000,
    "a million characters before the box": "x = 1 + 2 " * 100_000 + r"\boxed{42}",
    "nested unbalanced boxes": r"\boxed{" * 20_000,
    "emoji": r"\boxed{👩‍👩‍👧 + 🙂 = 💯}",
    "lone surrogate": "\\boxed{\ud800}",
    "null bytes": "\\boxed{\x00}",
    "empty box": r"\boxed{}",
    "division by zero": r"\boxed{\frac{1}{0}}",
    "infinity": r"\boxed{\infty - \infty}",
    "not a number": r"\boxed{nan}",
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_completions_get_a_score(pool, sample, name: str) -> None:
    strange, fine = pool.score([sample(STRANGE[name]), sample(r"\boxed{42}")])
    assert strange.correct is ("before the box" in name)
    assert fine.correct


def test_random_latex_never_raises(pool, sample) -> None:
    rng = random.Random(0)
    pieces = [
        r"\boxed{",
        "{",
        "}",
        "$",
        r"\frac",
        r"\sqrt",
        "1",
        "2",
        "x",
        "=",
        ",",
        "(",
        "]",
        r"\[",
        r"\left",
        "%",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 25))) for _ in range(300)]
    scores = pool.score([sample(text) for text in texts])
    assert all(score.correct is False for score in scores)


BOMBS = [
    r"9^{9^{9^{9}}}",
    "1000000000!",
    r"\sum_{k=1}^{10^9} k^{k}",
    r"2^{2^{31}}",
    "{" * 1000 + "43" + "}" * 1000,
    r"\frac{" * 2000 + "}" * 2000,
    r"\sqrt{" * 400 + "2" + "}" * 400,
]


def test_what_is_too_large_is_not_computed_and_what_takes_too_long_ends_at_the_timeout(sample) -> None:
    with reward.VerifierPool({"type": "math"}, workers=2, timeout=1.0) as pool:
        scores = pool.score([sample(rf"\boxed{{{answer}}}") for answer in [*BOMBS, "42"]])
    *exploding, fine = scores
    for bomb, score in zip(BOMBS, exploding, strict=True):
        assert score.correct is False or score.detail == "timeout after 1 s", bomb[:20]
    for large in (0, 1, 3):
        assert exploding[large].correct is False, "larger than anything that is computed, so another number"
    assert fine.correct


# ---------------------------------------------------------------- real data

DATA_SETS = [
    ("eval/gsm8k_test.jsonl", "answer", None),
    ("eval/math500.jsonl", "answer", None),
    ("eval/amc23.jsonl", "answer", None),
    ("eval/olympiadbench_oe_to_maths_en.jsonl", "answer", None),
    ("eval/minerva_math.jsonl", "answer_norm", None),
    ("eval/aime24.jsonl", "answer", None),
    ("eval/aime25.jsonl", "answer", None),
    ("multilingual/mgsm.jsonl", "answer", 300),
    ("train/gsm8k_train.parquet", "answer", 300),
    ("train/math_12k.parquet", "answer", 500),
    ("train/dapo_math_17k.parquet", "answer", 300),
    ("train/deepscaler_32k.parquet", "answer", 500),
]


def golds(path: Path, column: str, limit: int | None) -> list[str]:
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        found = parquet.read_table(path, columns=[column]).column(column).to_pylist()
    else:
        found = [json.loads(line)[column] for line in path.read_text().splitlines()]
    return random.Random(0).sample(found, limit) if limit else found


def as_number(gold: str) -> float | None:
    try:
        return float(gold.replace(",", ""))
    except ValueError:
        return None


@pytest.mark.parametrize(("file", "column", "limit"), DATA_SETS)
def test_real_golds_verify_themselves_and_reject_each_other(
    test_data, pool, sample, file: str, column: str, limit: int | None
) -> None:
    references = golds(test_data / file, column, limit)
    own = pool.score([sample(rf"So it is \boxed{{{gold}}}.", gold) for gold in references])
    assert sum(score.correct is True for score in own) >= 0.99 * len(own)

    others = references[1:] + references[:1]
    pairs = [(gold, other) for gold, other in zip(references, others, strict=True) if gold != other]
    pairs = pairs[:250]  # comparing expressions that differ takes longest
    scores = pool.score([sample(rf"So it is \boxed{{{other}}}.", gold) for gold, other in pairs])
    # Another problem's answer can be the same one in other words (x = 5 and 5); two numbers cannot.
    assert sum(score.correct is True for score in scores) <= 0.01 * len(scores)
    for (gold, other), score in zip(pairs, scores, strict=True):
        if None not in (as_number(gold), as_number(other)) and as_number(gold) != as_number(other):
            assert not score.correct, (gold, other)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "column", "_limit"), DATA_SETS)
def test_whole_sets_verify_themselves(test_data, pool, sample, file: str, column: str, _limit) -> None:
    references = golds(test_data / file, column, None)
    distinct = list(dict.fromkeys(references))
    scores = pool.score([sample(rf"So it is \boxed{{{gold}}}.", gold) for gold in distinct])
    failed = {gold for gold, score in zip(distinct, scores, strict=True) if score.correct is not True}
    print(file, failed)
    assert sum(gold in failed for gold in references) <= 0.005 * len(references)


def test_a_comparison_without_memory_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*arguments: object) -> bool:
        raise MemoryError

    monkeypatch.setattr("depo.reward.formulas._same_at_points", exhausted)
    score = score_one(MathReward(), Sample(r"\boxed{x + 1 - 1}", "x^2 - x^2 + x", 5, "stop", 9))
    assert score.correct is None
    assert "out of memory" in score.detail
