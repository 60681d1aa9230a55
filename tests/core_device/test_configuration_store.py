"""The components' configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from twin.core_device.components.configuration_store import ConfigurationStore, ShapeError, StaleValueError


@pytest.fixture
def store(tmp_path: Path) -> ConfigurationStore:
    return ConfigurationStore(tmp_path / "configuration.json")


def test_a_new_default_replaces_the_old_one_but_no_value_that_was_set(store: ConfigurationStore) -> None:
    store.merge("c", (), {"a": 1, "b": 1}, 0)
    store.merge("c", (), {"b": 2}, 100)

    store.merge("c", (), {"a": 9, "b": 9, "new": 9}, 0)

    assert store.get("c") == {"a": 9, "b": 2, "new": 9}


def test_a_reset_goes_back_to_the_default_or_away(store: ConfigurationStore) -> None:
    defaults = {"a": {"x": 1}}
    store.merge("c", (), defaults, 0)
    store.merge("c", (), {"a": {"x": 5, "y": 5}, "z": 5}, 100)

    store.reset("c", ("a",), defaults)
    store.reset("c", ("z",), defaults)

    assert store.get("c") == {"a": {"x": 1}}


def test_a_reset_of_everything_leaves_the_defaults(store: ConfigurationStore) -> None:
    store.merge("c", (), {"a": 5, "b": 5}, 100)

    store.reset("c", (), {"a": 1})

    assert store.get("c") == {"a": 1}


def test_a_component_cannot_overwrite_what_is_newer_or_of_another_shape(store: ConfigurationStore) -> None:
    store.merge("c", (), {"leaf": 1, "map": {"x": 1}}, 100)

    with pytest.raises(StaleValueError):
        store.merge("c", (), {"leaf": 2}, 99, strict=True)
    with pytest.raises(ShapeError):
        store.merge("c", ("leaf",), {"x": 1}, 101, strict=True)
    with pytest.raises(ShapeError):
        store.merge("c", (), {"map": 1}, 101, strict=True)
    assert store.get("c") == {"leaf": 1, "map": {"x": 1}}


def test_survives_a_restart_with_its_times(store: ConfigurationStore, tmp_path: Path) -> None:
    store.merge("c", ("a/b", "c"), 1, 100)
    store.save()

    restarted = ConfigurationStore(tmp_path / "configuration.json")
    restarted.merge("c", ("a/b", "c"), 2, 99)

    assert restarted.get("c") == {"a/b": {"c": 1}}


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_text('{"values": {"c"')

    store = ConfigurationStore(tmp_path / "configuration.json")

    with pytest.raises(KeyError):
        store.get("c")
    assert (tmp_path / "configuration.json.damaged").exists()


def test_listeners_hear_of_changes_below_their_path_and_of_a_restore(store: ConfigurationStore) -> None:
    heard: list[list[str]] = []
    store.merge("c", (), {"a": {"x": 1}, "b": 1}, 0)
    snapshot = store.snapshot()
    end = store.subscribe("c", ("a",), lambda _, path: heard.append(path))

    store.merge("c", (), {"a": {"x": 2}, "b": 2}, 1)
    store.restore(snapshot)
    end()
    store.merge("c", (), {"a": {"x": 3}}, 2)

    assert heard == [["a", "x"], []]


def test_an_empty_object_is_kept_and_takes_nothing_away(store: ConfigurationStore) -> None:
    store.merge("c", (), {"empty": {}, "map": {"x": 1}, "leaf": 1, "in": {"side": {}}}, 0)

    store.merge("c", (), {"map": {}, "leaf": {}}, 1)

    assert store.get("c") == {"empty": {}, "map": {"x": 1}, "leaf": 1, "in": {"side": {}}}


def test_letters_of_another_size_are_the_same_key_where_the_nucleus_takes_them_so(tmp_path: Path) -> None:
    store = ConfigurationStore(tmp_path / "configuration.json", ignores_case=True)
    heard: list[str] = []
    store.subscribe("com.x.hello", ("message",), lambda _name, path: heard.append("/".join(path)))

    store.merge("com.x.Hello", (), {"Message": {"Text": 1}, "other": 2}, 100)
    store.merge("com.x.hello", ("message",), {"text": 3}, 101)

    assert store.get("COM.X.HELLO") == {"Message": {"Text": 3}, "other": 2}
    assert store.get("com.x.hello", ("MESSAGE", "tExt")) == 3
    assert heard == ["Message/Text", "Message/Text"]
    store.reset("com.x.hello", ("MESSAGE",), {"message": {"text": 4}})
    assert store.get("com.x.Hello", ("message", "text")) == 4
    store.remove("com.x.hello")
    with pytest.raises(KeyError):
        store.get("com.x.Hello")


def test_letters_of_another_size_are_another_key_elsewhere(store: ConfigurationStore) -> None:
    store.merge("c", (), {"Message": 1, "message": 2}, 100)

    assert store.get("c") == {"Message": 1, "message": 2}
    with pytest.raises(KeyError):
        store.get("C")
