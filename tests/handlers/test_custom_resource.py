from typing import Any

import pytest

from edge_handlers.custom_resource import Properties, RequestType, parse
from tests.handlers import event


def test_reads_an_event_without_the_address_that_answers_it() -> None:
    request = parse(event.create("bucket_sweep"))

    assert request.type is RequestType.CREATE
    assert request.physical_id is None
    assert "answers.example" not in repr(request)


def test_an_update_has_both_sets_of_properties() -> None:
    request = parse(event.update("bucket_sweep", "id", old={"BucketName": "before"}))

    assert request.properties.text("BucketName") == "artifacts-dev"
    assert request.old_properties.text("BucketName") == "before"
    assert request.known_id == "id"


@pytest.mark.parametrize("kind", [None, "", "create", "Read"])
def test_refuses_another_request_type(kind: str | None) -> None:
    with pytest.raises(ValueError, match="RequestType must be Create, Update or Delete, got"):
        parse({"RequestType": kind})


def test_refuses_properties_that_are_no_mapping() -> None:
    with pytest.raises(ValueError, match="ResourceProperties must be a mapping, got list"):
        parse({"RequestType": "Create", "ResourceProperties": ["a"]})


def test_a_delete_must_know_what_it_deletes() -> None:
    with pytest.raises(ValueError, match="PhysicalResourceId is required in a Delete event"):
        _ = parse({"RequestType": "Delete"}).known_id


@pytest.mark.parametrize("values", [{}, {"Name": ""}, {"Name": None}])
def test_names_a_missing_property(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ResourceProperties\.Name is required, got nothing"):
        Properties(values).text("Name")


def test_a_string_is_not_a_list_and_a_list_is_not_a_string() -> None:
    with pytest.raises(ValueError, match="Name must be a string, got list"):
        Properties({"Name": ["a"]}).text("Name")
    with pytest.raises(ValueError, match="Names must be a list of non-empty strings, got 'a'"):
        Properties({"Names": "a"}).texts("Names")


def test_numbers_arrive_as_strings() -> None:
    assert Properties({"Seconds": "900"}).integer("Seconds", minimum=1) == 900


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "9" * 30])
def test_refuses_what_is_no_number_in_range(value: str) -> None:
    with pytest.raises(ValueError, match="Seconds must be a whole number of at least 1, got"):
        Properties({"Seconds": value}).integer("Seconds", minimum=1)


def test_lists_lose_their_repetitions_and_keep_their_order() -> None:
    assert Properties({"Names": ["b", "a", "b"]}).texts("Names") == ("b", "a")


@pytest.mark.parametrize("value", ["{", "[]", "3"])
def test_refuses_json_that_is_no_object(value: str) -> None:
    with pytest.raises(ValueError, match=r"ResourceProperties\.Manifest must be a JSON object, got"):
        Properties({"Manifest": value}).json_object("Manifest")
