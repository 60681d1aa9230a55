"""The components' configurations: maps of leaves, each with the time of its last change.

Rules of the nucleus: a leaf is only replaced by a value that is at least as new; defaults have time 0, so that a new
version's default replaces an old default but never a value that a deployment or the component itself has set.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twin.core_device.files import JSON_FILES, Documents

DEFAULT_TIMESTAMP_MS = 0

KeyPath = tuple[str, ...]
Listener = Callable[[str, list[str]], None]
_Snapshot = tuple[dict[str, Any], dict[str, dict[KeyPath, int]]]


class StaleValueError(Exception):
    """The leaf was changed after the given time."""


class ShapeError(Exception):
    """A map was given where a leaf is, or a leaf where a map is."""


class ConfigurationStore:
    """All configurations of a device, kept in one file.

    Args:
        path: The file; missing is an empty store.
        ignores_case: Components and keys are the same in capital and small letters; the first spelling stays.
        documents: Where the file is.
    """

    def __init__(self, path: Path, *, ignores_case: bool = False, documents: Documents = JSON_FILES) -> None:
        self._path, self._ignores_case, self._documents = path, ignores_case, documents
        stored = documents.read(path) or {}
        self._values: dict[str, Any] = stored.get("values", {})
        self._times: dict[str, dict[KeyPath, int]] = {
            component: {tuple(key_path): time for key_path, time in times}
            for component, times in stored.get("times", {}).items()
        }
        self._listeners: list[tuple[str, KeyPath, Listener]] = []

    def save(self) -> None:
        """Write everything to the file."""
        times = {c: [[list(path), time] for path, time in leaves.items()] for c, leaves in self._times.items()}
        self._documents.write(self._path, {"values": self._values, "times": times})

    def get(self, component: str, key_path: KeyPath = ()) -> Any:
        """The value at a key path.

        Raises:
            KeyError: There is no such component or key.
        """
        node: Any = self._values
        for key in (component, *key_path):
            if not isinstance(node, dict):
                raise KeyError(key)
            node = node[self._spelt(node, key)]
        return node

    def merge(
        self, component: str, key_path: KeyPath, value: Any, timestamp_ms: int, *, strict: bool = False
    ) -> list[KeyPath]:
        """Merge a value into a component's configuration.

        Args:
            component: Whose configuration; made when it does not exist.
            key_path: Where; maps on the way are made.
            value: A map is merged leaf by leaf; anything else, a list included, is one leaf.
            timestamp_ms: The change's time; leaves that are newer keep their value.
            strict: Refuse a value that is older or of another shape, instead of keeping or replacing what is there.

        Returns:
            The key paths of the leaves whose value has changed; their listeners have been called.

        Raises:
            StaleValueError: `strict`, and a leaf is newer; leaves before it are merged.
            ShapeError: `strict`, and a map meets a leaf.
        """
        component = self._spelt(self._values, component)
        root = self._values.setdefault(component, {})
        times = self._times.setdefault(component, {})
        for path in _empty_maps(value, key_path):
            self._put_empty_map(root, self._spelt_path(root, path))
        changed = []
        for written, leaf in _leaves(value, key_path):
            path = self._spelt_path(root, written)
            if times.get(path, 0) > timestamp_ms:
                if strict:
                    raise StaleValueError(f"{'/'.join(path)} was changed at {times[path]}, after {timestamp_ms}")
                continue
            if self._put(root, times, path, leaf, strict=strict):
                changed.append(path)
            times[path] = timestamp_ms
        for path in changed:
            self._notify(component, path)
        return changed

    def reset(self, component: str, key_path: KeyPath, defaults: dict[str, Any], *, tells: bool = True) -> None:
        """Put a part of a configuration back to its default, or away when it has none.

        Args:
            component: Whose configuration.
            key_path: The part.
            defaults: The whole default configuration.
            tells: Whether listeners hear of what goes.
        """
        component = self._spelt(self._values, component)
        node = self._values.setdefault(component, {})
        key_path = self._spelt_path(node, key_path)
        for key in key_path[:-1]:
            node = node.get(key, {}) if isinstance(node, dict) else {}
        if key_path:
            if isinstance(node, dict):
                node.pop(key_path[-1], None)
        else:
            node.clear()
        times = self._times.setdefault(component, {})
        for path in [path for path in times if path[: len(key_path)] == key_path]:
            del times[path]
        default: Any = defaults
        for key in key_path:
            default = default.get(self._spelt(default, key)) if isinstance(default, dict) else None
        if default is not None:
            self.merge(component, key_path, default, DEFAULT_TIMESTAMP_MS)
        if tells:
            self._notify(component, key_path)

    def remove(self, component: str) -> None:
        """Forget a component's configuration."""
        component = self._spelt(self._values, component)
        self._values.pop(component, None)
        self._times.pop(component, None)

    def subscribe(self, component: str, key_path: KeyPath, listener: Listener) -> Callable[[], None]:
        """Call `listener(component, key path)` for each changed leaf at or below a path; returns what ends it."""
        entry = (component, key_path, listener)
        self._listeners.append(entry)
        return lambda: self._listeners.remove(entry)

    def snapshot(self) -> _Snapshot:
        """A copy of everything, for `restore`."""
        return copy.deepcopy((self._values, self._times))

    def restore(self, snapshot: _Snapshot) -> None:
        """Put everything back; listeners hear of each configuration that differs."""
        before, (self._values, self._times) = self._values, copy.deepcopy(snapshot)
        for component, value in self._values.items():
            if before.get(component) != value:
                self._notify(component, ())

    def _notify(self, component: str, path: KeyPath) -> None:
        changed = self._alike((component, *path))
        for wanted, prefix, listener in list(self._listeners):
            heard = self._alike((wanted, *prefix))
            if changed[: len(heard)] == heard or (len(heard) > len(changed) and heard[: len(changed)] == changed):
                listener(component, list(path))

    def _alike(self, path: KeyPath) -> KeyPath:
        return tuple(map(str.lower, path)) if self._ignores_case else path

    def _spelt(self, node: dict[str, Any], key: str) -> str:
        """A key as it is spelt in a map that has it already."""
        if not self._ignores_case or key in node:
            return key
        return next((known for known in node if known.lower() == key.lower()), key)

    def _spelt_path(self, node: Any, path: KeyPath) -> KeyPath:
        spelt = []
        for key in path:
            spelt.append(self._spelt(node, key) if isinstance(node, dict) else key)
            node = node.get(spelt[-1]) if isinstance(node, dict) else None
        return tuple(spelt)

    @staticmethod
    def _put(root: dict[str, Any], times: dict[KeyPath, int], path: KeyPath, leaf: Any, *, strict: bool) -> bool:
        node = root
        for at, key in enumerate(path[:-1]):
            child = node.setdefault(key, {})
            if not isinstance(child, dict):
                if strict:
                    raise ShapeError(f"{'/'.join(path[: at + 1])} is not a map")
                child = node[key] = {}
            node = child
        if isinstance(node.get(path[-1]), dict):
            if strict:
                raise ShapeError(f"{'/'.join(path)} is a map")
            for below in [other for other in times if other[: len(path)] == path]:
                del times[below]
        if path[-1] in node and node[path[-1]] == leaf and type(node[path[-1]]) is type(leaf):
            return False
        node[path[-1]] = leaf
        return True

    @staticmethod
    def _put_empty_map(root: dict[str, Any], path: KeyPath) -> None:
        node = root
        for key in path:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                return


def _empty_maps(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, dict) and not value and path:
        yield path
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _empty_maps(child, (*path, str(key)))


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if not isinstance(value, dict):
        yield path, value
        return
    for key, child in value.items():
        yield from _leaves(child, (*path, str(key)))
