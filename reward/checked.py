"""What a reward hands back is checked before an advantage is computed from it."""

from __future__ import annotations

from collections.abc import Sequence

from reward.base import Reward, Sample, Score, unscorable

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
