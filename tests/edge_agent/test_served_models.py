"""Which of the device's own models the agent's clients see."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_inference.agent.server import _served
from tests.edge.foreign_model import foreign_model, tensor


def endpoint(folder: Path, dtype: str) -> Any:
    """An endpoint, as far as the agent looks at it, with a real model."""
    shapes = [tensor("x", dtype, [-1])], [tensor("y", dtype, [-1])]
    model = foreign_model(folder, [("Identity", ["x"], ["y"], {})], *shapes, task="tensors")
    return SimpleNamespace(settings=SimpleNamespace(name=folder.name), store=SimpleNamespace(model=model))


def test_a_model_that_the_protocol_cannot_carry_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    endpoints, refused = [endpoint(tmp_path / "texts", "string"), endpoint(tmp_path / "whole", "int64")], set[Path]()

    for _call in range(3):
        assert list(_served(lambda: endpoints, refused)) == ["whole"]

    assert caplog.text.count("model texts is not for the agent's clients: x must have one of the types") == 1
