"""The clock that skips: the order and the times of threads that sleep, known beforehand."""

from __future__ import annotations

import threading
import time

import pytest

from depo.simulate.clock import SkippingTime


def still() -> float:
    """A processor that takes no time."""
    return 0.0


def test_a_sleep_of_a_day_takes_no_time() -> None:
    clock, start = SkippingTime(still), time.monotonic()
    clock.sleep(86_400)
    assert clock.perf_counter() == 86_400
    assert time.monotonic() - start < 60


def test_sleepers_wake_in_the_order_of_their_times_and_not_of_their_starts() -> None:
    clock, woken = SkippingTime(still), []

    def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            clock.sleep(nap)
            woken.append((name, clock.perf_counter()))

    threads = [
        clock.thread(lambda: sleeper("slow", 5, 5), "slow"),
        clock.thread(lambda: sleeper("fast", 2, 2, 2), "fast"),
    ]
    for thread in threads:
        thread.start()
    clock.sleep(4.5)
    woken.append(("main", clock.perf_counter()))
    for thread in threads:
        thread.join()
    expected = [("fast", 2), ("fast", 4), ("main", 4.5), ("slow", 5), ("fast", 6), ("slow", 10)]
    assert woken == expected


def test_a_lock_is_waited_for_as_long_as_it_is_held() -> None:
    clock, lock = SkippingTime(still), None
    lock, got = clock.lock(), []

    def holder() -> None:
        with lock:
            clock.sleep(7)

    thread = clock.thread(holder, "holder")
    thread.start()
    clock.sleep(1)
    with lock:
        got.append(clock.perf_counter())
    thread.join()
    assert got == [7]


def test_what_is_waited_for_wakes_the_waiter_without_time_going_by() -> None:
    clock = SkippingTime(still)
    turn, done = clock.condition(), []

    def worker() -> None:
        clock.sleep(3)
        with turn:
            done.append(clock.perf_counter())
            turn.notify_all()

    with turn:
        thread = clock.thread(worker, "worker")
        thread.start()
        turn.wait_for(lambda: done)
        assert clock.perf_counter() == 3
    thread.join()
    assert not thread.is_alive() or threading.Thread.join(thread, 10) is None


def test_computing_takes_its_time_except_aside() -> None:
    spent = 0.0

    def compute() -> float:
        return spent

    clock = SkippingTime(compute)
    spent = 2.0
    assert clock.perf_counter() == 2
    with clock.aside():
        spent = 10.0
    assert clock.perf_counter() == 2
    clock.sleep(5)
    assert (clock.perf_counter(), clock.computed()) == (7, 2)


def test_threads_that_wait_for_each_other_are_told_and_do_not_hang() -> None:
    clock = SkippingTime(still)
    lock = clock.lock()
    lock.acquire()
    with pytest.raises(RuntimeError, match="a dead-lock: each of MainThread"):
        lock.acquire()
