from typing import Any

import pytest

from edge_handlers.neo_compilation import CompilationError, is_complete, on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_sagemaker import FakeSageMaker


def run(request: dict[str, Any]) -> dict[str, Any]:
    return on_event(request, Context())


def look(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return is_complete(event.poll(request, answer), Context())


def created(sagemaker: FakeSageMaker, status: str = "COMPLETED", **changes: Any) -> str:
    """A job that has come to an end (or "INPROGRESS"); its name."""
    name: str = run(event.create("neo_compilation", **changes))["PhysicalResourceId"]
    sagemaker.end(name, status)
    return name


def test_a_job_that_failed_gives_sagemakers_reason(sagemaker: FakeSageMaker) -> None:
    request = event.create("neo_compilation")
    answer = run(request)
    sagemaker.end(answer["PhysicalResourceId"], "FAILED", "ClientConfigurationError: no input named data")

    with pytest.raises(CompilationError, match=r"digits-.{12} failed: ClientConfigurationError: no input named data"):
        look(request, answer)


def test_a_job_that_was_stopped_is_a_failure(sagemaker: FakeSageMaker) -> None:
    request = event.create("neo_compilation")
    answer = run(request)

    sagemaker.end(answer["PhysicalResourceId"], "STOPPING")
    assert look(request, answer) == {"IsComplete": False}
    sagemaker.end(answer["PhysicalResourceId"], "STOPPED")
    with pytest.raises(CompilationError, match="was stopped before it made an artifact"):
        look(request, answer)


def test_a_job_that_was_deleted_meanwhile_is_a_failure(sagemaker: FakeSageMaker) -> None:
    request = event.create("neo_compilation")
    answer = run(request)
    sagemaker.jobs.clear()

    with pytest.raises(CompilationError, match="was deleted while the stack waited for it; deploy again"):
        look(request, answer)


def test_a_rollback_finds_the_former_job_and_discards_the_failed_one(sagemaker: FakeSageMaker) -> None:
    arm = {"TargetArch": "ARM64"}
    old = created(sagemaker)
    failed = created(sagemaker, "FAILED", **arm)

    rollback = event.update("neo_compilation", old, old=arm)
    answer = run(rollback)

    assert answer == {"PhysicalResourceId": old}
    assert look(rollback, answer)["IsComplete"]
    assert list(sagemaker.jobs) == [old]
    assert failed not in sagemaker.jobs


def test_a_rollback_while_the_new_job_runs_stops_it(sagemaker: FakeSageMaker) -> None:
    arm = {"TargetArch": "ARM64"}
    old = created(sagemaker)
    running = created(sagemaker, "INPROGRESS", **arm)
    rollback = event.update("neo_compilation", old, old=arm)
    answer = run(rollback)

    assert look(rollback, answer) == {"IsComplete": False}
    assert sagemaker.jobs[running]["CompilationJobStatus"] == "STOPPING"
    assert look(rollback, answer) == {"IsComplete": False}
    sagemaker.end(running, "STOPPED")

    assert look(rollback, answer)["IsComplete"]
    assert list(sagemaker.jobs) == [old]


def test_delete_stops_a_running_job_waits_and_deletes_it(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker, "INPROGRESS")
    request = event.delete("neo_compilation", name)

    answer = run(request)

    assert sagemaker.jobs[name]["CompilationJobStatus"] == "STOPPING"
    assert look(request, answer) == {"IsComplete": False}
    sagemaker.end(name, "STOPPED")
    assert look(request, answer) == {"IsComplete": True}
    assert sagemaker.jobs == {}


@pytest.mark.parametrize("status", ["COMPLETED", "FAILED", "STOPPED"])
def test_delete_takes_a_job_that_has_ended(sagemaker: FakeSageMaker, status: str) -> None:
    name = created(sagemaker, status)
    request = event.delete("neo_compilation", name)

    assert look(request, run(request)) == {"IsComplete": True}
    assert sagemaker.jobs == {}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("ResourceNotFound", "Requested resource not found."),
        ("ResourceNotFoundException", ""),
        ("ValidationException", "Could not find compilation job 'a'."),
        ("ValidationException", "The compilation job does not exist."),
    ],
)
def test_delete_again_succeeds_by_whatever_code_sagemaker_says_so(
    sagemaker: FakeSageMaker, code: str, message: str
) -> None:
    sagemaker.absent_code, sagemaker.absent_message = code, message
    request = event.delete("neo_compilation", "edgewright-dev-digits-0123456789ab")

    assert look(request, run(request)) == {"IsComplete": True}


@pytest.mark.parametrize("name", ["AWSCDK::CustomResourceProviderFramework::CREATE_FAILED", "with_underscore", "-"])
def test_delete_of_what_cannot_be_a_job_succeeds_without_a_call(sagemaker: FakeSageMaker, name: str) -> None:
    request = event.delete("neo_compilation", name, JobNamePrefix=None)

    assert look(request, run(request)) == {"IsComplete": True}
    assert sagemaker.calls == []


def test_delete_of_a_create_that_never_answered_takes_the_job_that_it_began(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker, "INPROGRESS")
    request = event.delete("neo_compilation", "edgewright-dev-Compile-1A2B3C4D5E6F")

    assert look(request, run(request)) == {"IsComplete": False}
    sagemaker.end(name, "STOPPED")

    assert look(request, {"PhysicalResourceId": request["PhysicalResourceId"]}) == {"IsComplete": True}
    assert name not in sagemaker.jobs


def test_delete_needs_no_properties(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker)
    request = event.delete("neo_compilation", name, SourceUri=None, DataInputConfig="not JSON")

    assert look(request, run(request)) == {"IsComplete": True}


@pytest.mark.parametrize("call", ["stop_compilation_job", "delete_compilation_job"])
def test_a_job_that_vanishes_between_two_calls_is_fine(sagemaker: FakeSageMaker, call: str) -> None:
    name = created(sagemaker, "INPROGRESS" if call.startswith("stop") else "COMPLETED")
    sagemaker.refuse(call, "ResourceNotFound")

    assert run(event.delete("neo_compilation", name)) == {"PhysicalResourceId": name}


def test_a_job_that_ends_while_it_is_stopped_is_fine(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker, "INPROGRESS")
    sagemaker.refuse("stop_compilation_job", "ValidationException", message="The job is in status Completed.")

    assert run(event.delete("neo_compilation", name)) == {"PhysicalResourceId": name}


def test_a_validation_error_that_does_not_mean_absence_is_reported(sagemaker: FakeSageMaker) -> None:
    name = created(sagemaker)
    sagemaker.refuse("delete_compilation_job", "ValidationException", message="The job is in use.")

    with pytest.raises(AwsCallError, match=f"cannot delete compilation job {name}: .*The job is in use"):
        run(event.delete("neo_compilation", name))
    assert name in sagemaker.jobs
