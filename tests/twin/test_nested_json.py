"""JSON of a hundred thousand levels, which anybody may send, is refused as other nonsense is."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.loader import load_stage
from twin import TwinError, predict
from twin.cloud import authorization
from twin.cloud.aws.protocol import RequestError, read_operation
from twin.operator import OperatorClient

TWIN = Path(__file__).parents[2] / "twin"
DEEP = "[" * 100_000
#: Of what the twin has written itself, by file: nobody else reaches these texts; or its depth is expected around it.
OWN = {
    "cloud/greengrass/recipe.py",
    "clock.py",
    "cloud/edge_server/supervisor.py",
    "core_device/cloud/spool.py",
    "core_device/files.py",
    "lifecycle.py",
    "process.py",
    "simulation/identities.py",
    "state.py",
    "status.py",
}


def unguarded(tree: ast.AST) -> Iterator[int]:
    """Lines of JSON that is read where other mistakes in it are expected, and its depth is not."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Try):
            continue
        names = {
            getattr(name, "id", "")
            for handler in node.handlers
            for name in (handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type])
        }
        if not names & {"ValueError", "JSONDecodeError"} or names & {"RecursionError", "Exception", "BaseException"}:
            continue
        for statement in node.body:
            for call in ast.walk(statement):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "json.loads":
                    yield call.lineno


def test_who_expects_malformed_json_expects_it_nested_too_deeply() -> None:
    found = {
        f"{path.relative_to(TWIN)}:{line}"
        for path in sorted(TWIN.rglob("*.py"))
        for line in unguarded(ast.parse(path.read_text("utf-8")))
        if str(path.relative_to(TWIN)) not in OWN
    }

    assert not found, "except RecursionError, too"


def test_a_message_of_any_depth_leaves_the_operators_client_alive() -> None:
    client = OperatorClient.__new__(OperatorClient)
    heard: Any = SimpleNamespace(put=lambda _payload: None)
    client._lock, client._listeners, client._waiting = threading.Lock(), [("a", heard, False)], {}
    nothing: Any = None
    message: Any = SimpleNamespace(topic="a", payload=DEEP.encode())

    client._on_message(nothing, nothing, message)


@pytest.mark.parametrize("key", ["features", "inputs"])
def test_a_question_of_any_depth_is_refused_by_name(key: str) -> None:
    features, inputs = (DEEP, None) if key == "features" else (None, DEEP)

    with pytest.raises(TwinError, match=f"--{key} must be JSON") as caught:
        predict.question(load_stage("twin"), "iris", None, None, features, inputs)
    assert len(str(caught.value)) < 1000


def test_a_body_of_any_depth_has_no_fields_and_is_no_request() -> None:
    assert authorization._field(DEEP.encode(), "target") is None
    with pytest.raises(RequestError, match="body must be JSON"):
        read_operation({"B": None}, {"x-amz-target": "A.B"}, DEEP.encode())
