"""What foreign functions do to their process: the component says what it was, and serves the next event."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.edge_handlers.test_handler_process import OUT, Component, run  # noqa: F401 - a fixture

pytestmark = pytest.mark.timeout(120)
FOREIGN = Path(__file__).with_name("functions") / "foreign"


@pytest.fixture
def foreign(run: Callable[..., Component]) -> Callable[..., Component]:  # noqa: F811
    return lambda **changes: run(FOREIGN, **{"handler": "main.handler", **changes})


def test_modules_that_are_called_like_pythons_own_do_no_harm(foreign: Callable[..., Component]) -> None:
    surroundings = foreign(memoryMb=256).ask(do="surroundings")

    assert surroundings["mine"], "Python's own types was there first, as on V1"
    assert surroundings["LAMBDA_TASK_ROOT"] == surroundings["PWD"] == str(FOREIGN)
    assert surroundings["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert surroundings["MY_FUNCTION_ARN"].endswith(":function:probe:1.2.3")


def test_a_process_that_the_function_forks_is_not_taken_for_it(foreign: Callable[..., Component]) -> None:
    component = foreign()

    assert component.ask(do="fork") == {"forked": True}
    assert component.ask(do="publish in a fork") == {"waited": True}
    assert component.ask(do="print") == {"printed": True}

    component.wait_for_log("in the fork: Failed to invoke function due to a process that the function forked")
    assert "failed" not in component.log.read_text().replace("failed=0", "")


@pytest.mark.parametrize("kind", ["list", "int", "none"])
def test_a_payload_that_is_no_message_is_refused(foreign: Callable[..., Component], kind: str) -> None:
    answer = foreign().ask(do="payload", kind=kind)

    assert answer["error"].startswith("payload must be bytes, a text or a file, got ")


@pytest.mark.parametrize("size", [131_073, 3_000_000])
def test_a_message_of_any_size_that_is_too_large_is_dropped(foreign: Callable[..., Component], size: int) -> None:
    component = foreign()

    assert component.ask(do="huge", bytes=size) == {"after": True}
    component.wait_for_log(f"topic {OUT}: a payload must have at most 131072 bytes, got {size}")


@pytest.mark.parametrize(("do", "answer"), [("close", {"closed": True}), ("no output", {"none": True})])
def test_a_function_may_do_without_its_output(foreign: Callable[..., Component], do: str, answer: Any) -> None:
    component = foreign(pinned=False)

    assert component.ask(do=do) == answer
    assert component.ask(do="surroundings")["PWD"] == str(FOREIGN)

    assert "failed:" not in component.log.read_text()


def test_how_a_process_ended_is_named(foreign: Callable[..., Component]) -> None:
    component = foreign(pinned=False)

    component.device.send({"do": "signal"}, "t/in")
    component.wait_for_log("its process was ended by signal SIGSEGV")
    component.device.send({"do": "unprintable"}, "t/in")
    component.wait_for_log("UnprintableError, which cannot be shown")
    component.device.send({"do": "garble"}, "t/in")
    component.wait_for_log("its process closed its connection to the component, and was killed")

    assert component.ask(do="print") == {"printed": True}


def test_what_is_published_at_the_end_of_a_process_is_published(foreign: Callable[..., Component]) -> None:
    component = foreign(pinned=False)

    component.device.send({"do": "exit"}, "t/in")

    assert [component.device.answer() for _ in range(2)] == [{"said": "at exit"}, {"said": "at the very end"}]
    component.wait_for_log("its process ended with 3")


def test_any_text_can_be_printed_and_logging_is_the_functions_own(foreign: Callable[..., Component]) -> None:
    component = foreign()

    component.ask(do="print")

    component.wait_for_log("mine a debug message")
    component.wait_for_log("ü \\ud800 🚀")


def test_an_async_function_is_refused(foreign: Callable[..., Component]) -> None:
    component = foreign(handler="main.waiting")

    component.wait_for_log("main.waiting must be a plain function, got an async one")
    assert "ended by itself" not in component.log.read_text()


def test_a_message_that_the_nucleus_does_not_take_does_not_hold_up_the_others(
    foreign: Callable[..., Component],
) -> None:
    component = foreign()
    component.device.send(json.dumps({"do": "huge", "bytes": 7_000}).encode(), "t/in")

    # Nucleus lite takes 6,300 bytes and gives no reason.
    component.wait_for_log("refused 8 times with 7000 bytes: nucleus lite publishes at most 6300", 60)

    assert component.device.answer() == {"after": True}
