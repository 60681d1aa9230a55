"""How long a handler may work, of the time that its Lambda function has left."""

from types import SimpleNamespace
from typing import Any

import pytest

from edge_handlers import deadline as deadline_module
from edge_handlers.deadline import MARGIN_S, Deadline, DeadlineError


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Any:
    clock = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(deadline_module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


def context(seconds: float) -> Any:
    return SimpleNamespace(get_remaining_time_in_millis=lambda: seconds * 1000)


@pytest.mark.parametrize(("share", "left_s"), [(1.0, 100.0), (0.5, 50.0), (0.1, 10.0)])
def test_a_share_is_one_of_the_time_before_the_margin_which_stays_whole(now: Any, share: float, left_s: float) -> None:
    assert Deadline.of(context(100 + MARGIN_S), share).remaining() == pytest.approx(left_s)


def test_what_is_under_way_is_named_once_the_time_is_over(now: Any) -> None:
    deadline = Deadline.of(context(100 + MARGIN_S))
    now.s += 99.9
    deadline.check("delete devices")

    now.s += 0.1
    with pytest.raises(DeadlineError, match="over while it was about to delete devices; run the same command again"):
        deadline.check("delete devices")
    assert deadline.remaining() == pytest.approx(0)


def test_a_function_that_has_less_than_the_margin_left_begins_nothing(now: Any) -> None:
    deadline = Deadline.of(context(MARGIN_S - 1), 0.5)

    with pytest.raises(DeadlineError):
        deadline.check("begin")
