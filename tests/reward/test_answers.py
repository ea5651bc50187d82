from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from depo.reward.answers import last_boxed


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{}", ""),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{a \\}", r"a \\"),
        (r"\boxed{3} or was it \boxed{4", "3"),
        (r"} { \boxed{6} {", "6"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{😀}", "😀"),
    ],
)
def test_content_of_the_last_complete_box(text: str, content: str) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize("text", ["", "42", r"\boxed", r"\boxed{", r"\boxed{{}", r"boxed{5}", "}{"])
def test_no_complete_box_gives_none(text: str) -> None:
    assert last_boxed(text) is None


def quadratic_last_boxed(text: str) -> str | None:
    """The same by trying every opening from the right and counting braces from each."""
    for start in range(len(text), -1, -1):
        if not text.startswith(r"\boxed{", start):
            continue
        depth = 0
        for end in range(start + len(r"\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if depth == 0:
                return text[start + len(r"\boxed{") : end]
    return None


@given(st.lists(st.sampled_from([r"\boxed{", "{", "}", "x", " ", "7"]), max_size=30).map("".join))
def test_agrees_with_counting_braces_from_each_opening(text: str) -> None:
    assert last_boxed(text) == quadratic_last_boxed(text)


@pytest.mark.parametrize("piece", [r"\boxed{", "{", "}", r"\boxed{}", "x"])
def test_a_million_characters_are_read_once(piece: str) -> None:
    """Counting from each opening would take hours, and end at the time limit of all tests."""
    found = last_boxed(piece * (1_000_000 // len(piece)))
    assert found == ("" if piece == r"\boxed{}" else None)
