"""The contract of a verifiable reward: samples in, scores out.

A score keeps three things apart that are often mixed up: what the advantage uses (``value``), what
counts as a success of the prompt (``correct``), and whether an answer could be read at all
(``unparseable``). A verifier that timed out or crashed says ``correct=None``: *unscorable* is not wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion to be judged.

    ``tokens`` is the completion's length in tokens, end token included; ``finish_reason`` "stop" or
    "length"; ``max_tokens`` the generation limit that applied. ``reference`` is the gold answer as text;
    for ``reasoning_gym`` it is the task's entry as JSON, which its scorer needs whole.
    """

    completion: str
    reference: str
    tokens: int
    finish_reason: str
    max_tokens: int
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on one sample.

    ``value`` is what the advantage is computed from; NaN when unscorable. ``correct`` is what pass rates
    count; ``None`` means unscorable (timeout, crash). ``unparseable`` means that no answer was found in
    the completion, which also counts as wrong. ``components`` holds named parts of ``value``.
    ``detail`` says in a few words why a sample is unscorable.
    """

    value: float
    correct: bool | None
    unparseable: bool = False
    components: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""


def unscorable(reason: str) -> Score:
    """A score that carries no verdict, and why."""
    return Score(value=float("nan"), correct=None, detail=reason)


class Reward(Protocol):
    """Judges samples. Order is kept: one score a sample. Never raises for what a sample contains.

    Three optional members: ``inline = True`` promises that scoring cannot hang, so that `VerifierPool` scores
    in the calling process; ``prepare()`` runs once per worker before anything is timed (slow imports);
    ``version`` is a text that differs when the code that judges does, so that workers are known to be alike.
    """

    def score(self, samples: Sequence[Sample]) -> list[Score]: ...
