"""Which engine gets what: by hand-made cases, and by a brute-force run of many random ones."""

from __future__ import annotations

import numpy as np

from depo.rollout.engine import Sampling
from depo.rollout.schedule import Call, Engine, Schedule
from depo.types import Prompt, Request, Rollout

SAMPLING = Sampling(1.0, 100)


def request(name: str, n: int, tokens: float | None = None, step: int = 0) -> Request:
    return Request(Prompt(name, "", (1,), ""), tuple(1000 * step + i for i in range(n)), tokens=tokens)


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


def test_the_longest_goes_first_to_the_engine_with_the_fewest_tokens_whole_prompts_together() -> None:
    schedule = Schedule(["one", "two"], slots=100)
    asked = [request("a", 1, 15), request("b", 2, 50), request("c", 2, 30), request("d", 2, 20)]
    schedule.add(asked, SAMPLING, 0)
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["b0", "b1", "a0"], "two": ["c0", "c1", "d0", "d1"]}
    assert [engine.tokens for engine in schedule.engines.values()] == [115, 100]


def test_a_prompt_is_split_where_one_engine_would_have_more_than_its_share() -> None:
    schedule = Schedule([str(number) for number in range(8)], slots=100)
    schedule.add([request("a", 16, 10), request("b", 16, 10)], SAMPLING, 0)
    shares = schedule.shares()
    assert {len(samples) for samples in shares.values()} == {4}
    assert len(shares) == 8


def test_without_slots_the_completions_of_a_prompt_are_dealt_round() -> None:
    """None of them can be moved later: an engine with all of a long prompt's would end last."""
    schedule = Schedule(["one", "two", "three"])
    schedule.add([request("a", 4, 10), request("b", 3, 50)], SAMPLING, 0)
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["b0", "a0", "a3"], "two": ["b1", "a1"], "three": ["b2", "a2"]}


def test_an_engine_goes_on_with_the_prompts_that_it_has_begun() -> None:
    schedule = Schedule(["one", "two"], slots=2)
    schedule.add([request("a", 4, 10), request("b", 4, 10)], SAMPLING, 0)
    given = {name: names(samples) for name, samples in schedule.shares().items()}
    assert given == {"one": ["a0", "a1"], "two": ["b0", "b1"]}
    finish(schedule, "two", "b", 0)
    assert names(schedule.share(schedule.engines["two"])) == ["b2"]
    finish(schedule, "one", "a", 1)
    finish(schedule, "one", "a", 0)
    assert names(schedule.share(schedule.engines["one"])) == ["a2", "a3"]
    finish(schedule, "one", "a", 2)
    assert names(schedule.share(schedule.engines["one"])) == ["b3"], "nothing else is left"


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
    assert [(one.prompt.key, one.first_index) for one in lost] == [("a", 0), ("a", 1)]
    assert held(schedule) == {"one": 0, "two": 2}
    finish(schedule, "two", "b", 0)
    assert names(schedule.share(schedule.engines["two"])) == ["a0"]
    assert schedule.share(schedule.engines["one"]) == []
    schedule.loaded(schedule.engines["one"], 0)
    assert names(schedule.share(schedule.engines["one"])) == ["a1", "c0"]
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
