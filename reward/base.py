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


# ---------------------------------------------------------------- what a reward hands back, checked

LARGEST = 1e18  # its square still fits a 32-bit float, in which advantages and losses are computed
DETAIL_LENGTH = 200  # characters; a detail is a few words for a log line, not a dump of a completion
OUT_OF_MEMORY = "out of memory: more than verification.memory_mb"


def describe(error: BaseException) -> str:
    """An exception on one line: "TypeName: message"."""
    if isinstance(error, MemoryError):
        return OUT_OF_MEMORY
    message = " ".join(str(error).split())
    return as_detail(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def as_detail(text: object) -> str:
    """Text that fits a log line and can be stored: a message that quotes a completion may hold half of a
    surrogate pair, which UTF-8 has no bytes for."""
    return str(text or "")[:DETAIL_LENGTH].encode("utf-8", "replace").decode("utf-8")


def checked(score: object) -> Score:
    """The score in plain Python types; unscorable when it is no Score or has a verdict without a number."""
    if not isinstance(score, Score):
        return unscorable(f"returned {type(score).__name__}; expected a Score")
    if score.correct is None or score.correct != score.correct:  # NaN is not right
        return unscorable(as_detail(score.detail) or "no reason given")
    value = float(score.value)
    if not abs(value) <= LARGEST:
        return unscorable(f"returned the value {value:g}; rewards lie within ±{LARGEST:g}")
    plain = type(score.value) is float and type(score.correct) is bool and type(score.unparseable) is bool
    if plain and score.detail == "" and score.components == {}:
        return score  # as our own cheap rewards make them
    components = {as_detail(name): float(part) for name, part in (score.components or {}).items()}
    return Score(value, bool(score.correct), bool(score.unparseable), components, as_detail(score.detail))


def score_all(reward: Reward, samples: Sequence[Sample]) -> list[Score]:
    """Score in this process; if that raises, sample by sample: only the guilty ones are unscorable."""
    try:
        scores = reward.score(samples)
        if len(scores) == len(samples):
            return [checked(score) for score in scores]
    except (Exception, SystemExit):  # noqa: BLE001, S110 - third-party code; told sample by sample below
        pass
    return [score_one(reward, sample) for sample in samples]


def score_one(reward: Reward, sample: Sample) -> Score:
    """The checked score of one sample, whatever the reward does short of killing the process."""
    try:
        scores = reward.score([sample])
        if len(scores) != 1:
            return unscorable(f"{type(reward).__name__} returned {len(scores)} scores for one sample")
        return checked(scores[0])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - third-party code may raise anything
        return unscorable(describe(error))
