"""Retries come soon at first and then at their own interval; a Wait state takes its time."""

from __future__ import annotations

import threading
from functools import partial

from twin.cloud.stack_deletion import FIRST_S, QuickWaits


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, list[float]()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


def made(time: Time) -> QuickWaits:
    return QuickWaits(lambda: time.now)


def test_the_first_retries_come_soon_and_later_ones_at_their_interval() -> None:
    time = Time()
    waits = made(time)

    for _ in range(30):
        waits.pause(time.sleep, 5)

    assert time.slept[:4] == [FIRST_S] * 4
    assert time.slept == sorted(time.slept)
    assert time.slept[-1] == 5
    # A waiter has hundreds of retries: the time that it may take shrinks by a few intervals only.
    assert sum(time.slept) > (30 - 17) * 5


def test_no_retry_comes_later_than_its_interval() -> None:
    time = Time()
    waits = made(time)
    waits.pause(time.sleep, 0.1)
    time.now += 1000

    waits.pause(time.sleep, 0.1)

    assert time.slept == [0.1, 0.1]


def test_a_wait_state_takes_as_long_as_it_says() -> None:
    time = Time()
    waits = made(time)
    state = partial(waits.exactly, lambda seconds: waits.pause(time.sleep, seconds))

    state(7)
    waits.pause(time.sleep, 7)

    assert time.slept == [7, FIRST_S]


def test_each_execution_begins_anew() -> None:
    time = Time()
    waits = made(time)
    waits.pause(time.sleep, 60)
    time.now += 1000

    thread = threading.Thread(target=waits.pause, args=(time.sleep, 60))
    thread.start()
    thread.join()

    assert time.slept == [FIRST_S, FIRST_S]
