import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from edge_handlers.custom_resource import Contract, Key, Properties, RequestType, json_object, parse, texts, whole
from tests.handlers import event
from tests.handlers.event import EVENTS

HANDLERS = Path(__file__).resolve().parents[2] / "constructs" / "edge_handlers"


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


@pytest.mark.parametrize("value", ["", "nan", "inf", "-0.1", "much"])
def test_refuses_what_is_no_number_from_the_least_one(value: str) -> None:
    with pytest.raises(
        ValueError, match=r"ResourceProperties\.Tolerance (must be a number of at least 0|is required), got"
    ):
        Properties({"Tolerance": value}).number("Tolerance", minimum=0)


@dataclass(frozen=True)
class Place(Contract):
    """A part of `Order`."""

    town: Annotated[str, Key("Town")]


@dataclass(frozen=True)
class Order(Contract):
    """One of everything."""

    TYPE = "Custom::Order"

    name: Annotated[str, Key("Name")]
    count: Annotated[int, whole("Count", minimum=1)]
    parts: Annotated[tuple[str, ...], texts("Parts")]
    notes: Annotated[dict[str, Any], json_object("Notes")]
    place: Place
    colour: Annotated[str | None, Key("Colour")] = None
    extras: Annotated[tuple[str, ...], texts("Extras")] = ()


def test_a_contract_is_read_as_it_was_written() -> None:
    order = Order("bolt", 2, ("m", "n"), {"deep": {"b": 1, "a": True}}, Place("Ulm"), extras=("x",))

    properties = order.to_properties()

    assert properties == {
        "Name": "bolt",
        "Count": "2",
        "Parts": ["m", "n"],
        "Notes": '{"deep": {"b": 1, "a": true}}',
        "Town": "Ulm",
        "Extras": ["x"],
    }
    assert Order.of(Properties(properties)) == order


def test_a_contract_names_what_is_missing_in_a_part_too() -> None:
    with pytest.raises(ValueError, match=r"ResourceProperties\.Town is required, got nothing"):
        Order.of(Properties({"Name": "bolt", "Count": "2", "Parts": [], "Notes": "{}"}))


#: Type of the resource to the event of it.
NAMES = {json.loads(file.read_text()).get("ResourceType"): file.stem for file in sorted(EVENTS.glob("*.json"))}


def contracts() -> list[type[Contract]]:
    """Those of all handlers, each of a type of resources."""
    modules = [importlib.import_module(f"edge_handlers.{file.stem}") for file in sorted(HANDLERS.glob("*.py"))]
    classes = [each for module in modules for each in vars(module).values() if isinstance(each, type)]
    return list(dict.fromkeys(each for each in classes if issubclass(each, Contract) and hasattr(each, "TYPE")))


def test_every_contract_has_an_event_and_every_event_a_contract() -> None:
    assert sorted(contract.TYPE for contract in contracts()) == sorted(set(NAMES) - {None})


@pytest.mark.parametrize("contract", contracts(), ids=lambda contract: contract.TYPE)
def test_what_a_construct_writes_a_handler_reads(contract: type[Contract]) -> None:
    name = NAMES[contract.TYPE]
    given = event.create(name)["ResourceProperties"]

    read = contract.of(Properties(given))

    assert contract.of(Properties(read.to_properties())) == read
    assert set(read.to_properties()) == set(given) - {"ServiceToken"}
