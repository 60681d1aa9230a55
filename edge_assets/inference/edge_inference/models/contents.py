"""A package's files as bytes: read once, within limits, and no other way after that."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading, and only that: a pipe or a device in its place would be waited for, maybe for ever.

    Args:
        path: The file; a link to one is followed.

    Raises:
        OSError: It cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it must be a regular file")
    return os.fdopen(descriptor, "rb")


def read_file(path: Path, limit_bytes: int) -> bytes:
    """Read a file, and at most one byte more than a limit: one that grows has no end.

    Args:
        path: The file.
        limit_bytes: More is not taken.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    with open_file(path) as stream:
        return stream.read(limit_bytes + 1)


class Contents(Mapping[str, bytes]):
    """The verified files of a package by their names in the manifest; dropped when the model is loaded.

    What is loaded are these bytes, so that nobody can put others in between the check and the load.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def __getitem__(self, name: str) -> bytes:
        return self._files[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def drop(self) -> None:
        """Give the memory back."""
        self._files.clear()


#: Field numbers of onnx.proto3: where graphs are found in a model, and where a tensor names a file of its own.
_MODEL_GRAPH, _MODEL_FUNCTIONS, _FUNCTION_NODE = 7, 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH = 5, 5, 6
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 10, 11, 22, 23
_TENSOR_EXTERNAL = 13


def reads_beside(model: bytes) -> bool:
    """Whether a model has weights in files of their own where the runtime reads them from disk, whatever it is given.

    That is so in the branches of If, the bodies of loops, functions and sparse tensors; ONNX Runtime 1.32 takes those
    of the model's own graph from memory.

    Args:
        model: An ONNX model, of whatever content.
    """
    try:
        for number, value in _fields(memoryview(model)):
            if number == _MODEL_GRAPH and _graph_reads(value, outer=True):
                return True
            if number == _MODEL_FUNCTIONS:
                nodes = (node for field, node in _fields(value) if field == _FUNCTION_NODE)
                if any(_node_reads(node, outer=False) for node in nodes):
                    return True
    except (IndexError, RecursionError):
        # No ONNX model: the runtime says what is wrong with it.
        return False
    return False


def _graph_reads(graph: memoryview, *, outer: bool) -> bool:
    for number, value in _fields(graph):
        if number == _GRAPH_NODE and _node_reads(value, outer=outer):
            return True
        if number == _GRAPH_INITIALIZER and not outer and _external(value):
            return True
        if number == _GRAPH_SPARSE and _sparse(value):
            return True
    return False


def _node_reads(node: memoryview, *, outer: bool) -> bool:
    for attribute in (value for number, value in _fields(node) if number == _NODE_ATTRIBUTE):
        for number, value in _fields(attribute):
            if number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and _graph_reads(value, outer=False):
                return True
            if number == _ATTRIBUTE_TENSOR and not outer and _external(value):
                return True
            if number == _ATTRIBUTE_TENSORS and _external(value):
                return True
            if number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES) and _sparse(value):
                return True
    return False


def _sparse(tensor: memoryview) -> bool:
    """Values and indices of a sparse tensor are tensors."""
    return any(number in (1, 2) and _external(value) for number, value in _fields(tensor))


def _external(tensor: memoryview) -> bool:
    return any(number == _TENSOR_EXTERNAL for number, _ in _fields(tensor))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field that has a length; the others are passed over.

    Raises:
        IndexError: It is no protocol buffer.
    """
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            length, place = _varint(message, place)
            if length > end - place:
                raise IndexError("a field is longer than its message")
            yield number, message[place : place + length]
            place += length
        elif kind == 0:
            _, place = _varint(message, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise IndexError(f"wire type {kind}")


_FIXED: Mapping[int, int] = {1: 8, 5: 4}


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise IndexError("a number is too long")
