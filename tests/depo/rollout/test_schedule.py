"""Which engine gets what: by hand-made cases, and by a brute-force run of many random ones."""

from __future__ import annotations

import numpy as np
import pytest

from depo.rollout.engine import Sampling
from depo.rollout.schedule import Call, Engine, Schedule
from depo.types import Prompt, Request, Rollout

SAMPLING = Sampling(1.0, 100)


def request(name: str, n: int, tokens: float | None = None, step: int = 0, prompt: int = 1) -> Request:
    return Request(
        Prompt(name, "", (1,) * prompt, ""), tuple(1000 * step + i for i in range(n)), tokens=tokens
    )


def rollout(one: Request, tokens: int = 1, version: int = 0) -> Rollout:
    ids = np.zeros(tokens, np.int32)
    return Rollout(one.prompt.key, one.first_index, one.seeds[0], ids, np.zeros(tokens), "stop", version)


def names(samples) -> list[str]:
    return [f"{one.prompt.key}{one.first_index}" for one, _ in samples]


def held(schedule: Schedule) -> dict[str, int]:
    return {name: len(engine.held) for name, engine in schedule.engines.items()}


def finish(schedule: Schedule, name: str, key: str, index: int) -> None:
    engine = schedule.engines[name]
    (one,) = (one for _, one, _ in engine.held.values() if (one.prompt.key, one.first_index) == (key, index))
    schedule.finish(engine, rollout(one))


def test_the_longest_goes_first_to_the_engine_with_the_fewest_tokens() -> None:
    schedule = Schedule(["one", "two"])
    schedule.add(
        [request(*one) for one in (("a", 1, 15), ("b", 1, 90), ("c", 1, 60), ("d", 1, 40))], SAMPLING, 0
    )
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["b0", "a0"], "two": ["c0", "d0"]}
    assert [engine.tokens for engine in schedule.engines.values()] == [105, 100]


@pytest.mark.parametrize("slots", [None, 4])
def test_the_completions_of_a_prompt_are_dealt_round(slots: int | None) -> None:
    schedule = Schedule(["one", "two", "three"], slots)
    schedule.add([request("a", 4, 10), request("b", 3, 50)], SAMPLING, 0)
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["b0", "a0", "a3"], "two": ["b1", "a1"], "three": ["b2", "a2"]}


def test_an_engine_that_comes_first_leaves_its_part_of_each_prompt_to_the_others() -> None:
    schedule = Schedule(["one", "two"], slots=9)
    schedule.engines["two"].away = True
    schedule.add([request("a", 4, 10), request("b", 4, 10)], SAMPLING, 0)
    assert names(schedule.shares()["one"]) == ["a0", "a1", "b0", "b1"]
    schedule.loaded(schedule.engines["two"], 0)
    assert names(schedule.share(schedule.engines["two"])) == ["a2", "a3", "b2", "b3"]


def test_the_completions_of_a_long_prompt_stay_together_up_to_a_fair_share() -> None:
    schedule = Schedule(["one", "two"], slots=3)
    long = [request("a", 4, 10, prompt=20), request("b", 4, 10, prompt=20)]
    schedule.add(long, SAMPLING, 0)
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["a0", "a1", "a2"], "two": ["b0", "b1", "b2"]}
    finish(schedule, "two", "b", 0)
    assert names(schedule.share(schedule.engines["two"])) == ["b3"]
    finish(schedule, "two", "b", 1)
    assert names(schedule.share(schedule.engines["two"])) == ["a3"], "nothing else is left"
    wide = Schedule([str(number) for number in range(8)], slots=100)
    wide.add([request("a", 16, 10, prompt=20), request("b", 16, 10, prompt=20)], SAMPLING, 0)
    assert [len(samples) for samples in wide.shares().values()] == [4] * 8


def test_what_is_not_known_of_a_prompt_is_taken_from_what_has_ended() -> None:
    schedule = Schedule(["one"])
    first = schedule.add([request("a", 2)], SAMPLING, 0)
    (engine,) = schedule.engines.values()
    schedule.shares()
    assert engine.tokens == 2 * SAMPLING.max_new_tokens
    for _, one, _ in list(engine.held.values()):
        schedule.finish(engine, rollout(one, tokens=30))
    assert (len(first.finished), engine.tokens, schedule.outstanding) == (2, 0, 0)
    schedule.add([request("b", 2), request("c", 2, 40)], SAMPLING, 0)
    assert names(schedule.shares()["one"]) == ["c0", "c1", "b0", "b1"]
    assert engine.tokens == 2 * 30 + 2 * 40


def test_an_engine_runs_dry_before_it_takes_new_weights_and_only_when_it_has_to() -> None:
    schedule = Schedule(["one"], slots=2)
    (engine,) = schedule.engines.values()
    schedule.add([request("a", 3)], SAMPLING, oldest=0)
    schedule.shares()
    schedule.newest = 1
    schedule.add([request("b", 1)], SAMPLING, oldest=0)
    schedule.add([request("c", 1)], SAMPLING, oldest=1)
    finish(schedule, "one", "a", 0)
    assert names(schedule.share(engine)) == ["a2"]
    finish(schedule, "one", "a", 1)
    assert names(schedule.share(engine)) == ["b0"], "version 0 will do for it"
    finish(schedule, "one", "a", 2)
    assert schedule.share(engine) == [], "version 1 is needed next"
    assert not schedule.wants_weights(engine)
    finish(schedule, "one", "b", 0)
    assert schedule.share(engine) == []
    assert schedule.wants_weights(engine)
    schedule.loaded(engine, 1)
    assert names(schedule.share(engine)) == ["c0"]


def test_an_empty_engine_takes_the_newest_weights_although_its_own_would_do() -> None:
    schedule = Schedule(["one"])
    (engine,) = schedule.engines.values()
    schedule.newest = 3
    assert not schedule.wants_weights(engine), "not while there is nothing to do"
    schedule.add([request("a", 1)], SAMPLING, oldest=0)
    assert schedule.shares() == {}
    assert schedule.wants_weights(engine)


def test_an_evaluation_comes_before_what_waits_and_has_the_newest_policy() -> None:
    schedule = Schedule(["one"], slots=1)
    (engine,) = schedule.engines.values()
    schedule.add([request("a", 3)], SAMPLING, oldest=0)
    schedule.shares()
    schedule.newest = 2
    schedule.add([request("e", 1)], SAMPLING, oldest=None)
    assert schedule.share(engine) == []
    finish(schedule, "one", "a", 0)
    assert schedule.wants_weights(engine)
    schedule.loaded(engine, 2)
    assert names(schedule.share(engine)) == ["e0"]
    finish(schedule, "one", "e", 0)
    assert names(schedule.share(engine)) == ["a1"]


def test_what_a_dead_engine_held_goes_to_others_first_and_it_gets_nothing_until_it_is_back() -> None:
    schedule = Schedule(["one", "two"], slots=2)
    call = schedule.add([request("a", 2, 10), request("b", 2, 10), request("c", 1, 5)], SAMPLING, 0)
    schedule.shares()
    lost = schedule.died(schedule.engines["one"])
    assert [(one.prompt.key, one.first_index) for one in lost] == [("a", 0), ("b", 0)]
    assert held(schedule) == {"one": 0, "two": 2}
    finish(schedule, "two", "b", 1)
    (again,) = schedule.share(schedule.engines["two"])
    assert again[0] == lost[0]
    assert schedule.share(schedule.engines["one"]) == []
    schedule.loaded(schedule.engines["one"], 0)
    assert names(schedule.share(schedule.engines["one"])) == [
        f"{lost[1].prompt.key}{lost[1].first_index}",
        "c0",
    ]
    assert call.owed == 5


def test_a_call_that_is_given_up_leaves_nothing_waiting() -> None:
    schedule = Schedule(["one"], slots=1)
    call = schedule.add([request("a", 3, 10), request("b", 1, 5)], SAMPLING, 0)
    schedule.shares()
    schedule.end(call)
    assert not schedule.backlog
    finish(schedule, "one", "a", 0)
    assert schedule.share(schedule.engines["one"]) == []
    assert schedule.outstanding == 0


def test_whatever_happens_all_is_made_once_and_by_a_policy_that_is_new_enough() -> None:
    """Random calls, ends, deaths and versions, until nothing is left: an engine is never idle for ever."""
    for trial in range(200):
        rng = np.random.default_rng(trial)
        slots = None if rng.random() < 0.2 else int(rng.integers(1, 6))
        schedule = Schedule([str(number) for number in range(rng.integers(1, 5))], slots)
        engines = list(schedule.engines.values())
        calls: list[Call] = []
        asked_of, least = [], []
        made: dict[tuple[int, str, int], int] = {}

        def deal(one: Engine | None = None, schedule: Schedule = schedule, slots: int | None = slots) -> None:
            """As the dispatcher: to all, or to an engine of which something has been heard."""
            if one is None:
                schedule.shares()
            else:
                schedule.share(one)
            for engine in schedule.engines.values() if one is None else [one]:
                assert slots is None or len(engine.held) <= slots
                if schedule.wants_weights(engine):
                    engine.away = True

        for step in range(12):
            oldest = max(schedule.newest - int(rng.integers(0, 3)), 0) if rng.random() < 0.8 else None
            asked = [request(f"p{i}", int(rng.integers(1, 7)), step=step) for i in range(rng.integers(1, 5))]
            calls.append(schedule.add(asked, SAMPLING, oldest))
            asked_of.append(sum(one.n for one in asked))
            least.append(schedule.newest if oldest is None else oldest)
            deal()
            while step == 11 or rng.random() < 0.8:
                busy = [engine for engine in engines if engine.held or engine.away]
                if not busy:
                    assert not schedule.backlog, "something waits, and no engine does anything"
                    break
                engine = busy[rng.integers(len(busy))]
                died = False
                if engine.away:
                    schedule.loaded(engine, schedule.newest)
                elif rng.random() < 0.03:
                    schedule.died(engine)
                    died = True
                else:
                    keys = list(engine.held)
                    call, one, _ = engine.held[keys[rng.integers(len(keys))]]
                    assert engine.version >= least[calls.index(call)]
                    sample = (calls.index(call), one.prompt.key, one.first_index)
                    made[sample] = made.get(sample, 0) + 1
                    schedule.finish(engine, rollout(one, tokens=int(rng.integers(1, 50))))
                deal(None if died else engine)
            schedule.newest += int(rng.integers(0, 2))
        assert set(made.values()) == {1}
        assert [len(call.finished) for call in calls] == [call.owed for call in calls] == asked_of
        assert abs(schedule.outstanding) < 1e-6
