"""A device that hangs up on a process without a word, as nucleus lite does when it does not know it."""

from collections.abc import Callable

import pytest

from edge_component.greengrass_ipc import HANG_UPS, Connector
from edge_component.ipc import HungUpError, IpcClient, IpcError, RefusedError


def connector(*outcomes: Exception | None) -> Connector:
    """Its attempts end as given, one after the other; None for a connection."""
    left = list(outcomes)

    def connect(on_lost: Callable[[], None]) -> IpcClient:
        outcome = left.pop(0)
        if outcome is not None:
            raise outcome
        return on_lost  # type: ignore[return-value]  # nothing here calls it

    return Connector(connect)


def attempt(made: Connector) -> type[Exception] | None:
    try:
        made(lambda: None)
    except IpcError as exc:
        return type(exc)
    return None


def test_five_hang_ups_in_a_row_are_a_refusal() -> None:
    made = connector(*[HungUpError("closed")] * HANG_UPS)

    assert [attempt(made) for _ in range(HANG_UPS)] == [HungUpError] * (HANG_UPS - 1) + [RefusedError]


def test_a_connection_between_them_begins_the_count_anew() -> None:
    made = connector(*[HungUpError("closed")] * (HANG_UPS - 1), None, *[HungUpError("closed")] * (HANG_UPS - 1))

    assert RefusedError not in [attempt(made) for _ in range(2 * HANG_UPS - 1)]


@pytest.mark.parametrize("failure", [IpcError("no socket"), RefusedError("access denied")])
def test_other_failures_pass_as_they_are(failure: Exception) -> None:
    assert attempt(connector(failure)) is type(failure)
