"""The shim of greengrasssdk beside the SDK itself, on the calls that the SDK answers without a core."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.edge.model_folder import ROOT
from tests.stand_in import NEEDED
from v1_handler import channel

SHIM = ROOT / "edge_assets" / "handlers" / "shim"


class Core:
    """Where the SDK's messages go: its own IPC client, replaced."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Any, str]] = []


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Core:
    """The SDK with a core that takes everything."""
    import base64
    import json

    core = Core()

    class IpcClient:
        def __init__(self, endpoint: str) -> None:
            pass

        def post_work(self, arn: str, payload: Any, context: bytes, kind: str) -> str:
            custom = json.loads(base64.b64decode(context))["custom"]
            core.messages.append((custom["subject"], payload, custom["queueFullPolicy"]))
            return "1"

    def module(name: str, **contents: Any) -> None:
        made = ModuleType(name)
        made.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, made)

    arns = SimpleNamespace(MY_FUNCTION_ARN="me", SHADOW_FUNCTION_ARN="s", ROUTER_FUNCTION_ARN="r")
    module("greengrass_common", env_vars=arns)
    module("greengrass_common.env_vars", **vars(arns))
    module("greengrass_common.function_arn_fields", FunctionArnFields=object)
    module("greengrass_ipc_python_sdk")
    module("greengrass_ipc_python_sdk.ipc_client", IPCClient=IpcClient, IPCException=Exception)
    forget()
    return core


def forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "greengrasssdk"]:
        del sys.modules[name]


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core()

    def send(message: dict[str, Any]) -> None:
        import base64

        policy = {"AllOrException": "AllOrError"}.get(message["policy"], message["policy"])
        core.messages.append((message["topic"], base64.b64decode(message["payload"]), policy))
        out.acknowledge(message["publish"], None)

    out = channel.Publishing(send)
    monkeypatch.setattr(channel, "current", out)
    return core


CALLS: dict[str, Callable[[Any], Any]] = {
    "topic and bytes": lambda client: client.publish(topic="t", payload=b"x"),
    "no payload": lambda client: client.publish(topic="t"),
    "best effort": lambda client: client.publish(topic="t", payload=b"x", queueFullPolicy="BestEffort"),
    "all or exception": lambda client: client.publish(topic="t", payload=b"x", queueFullPolicy="AllOrException"),
    "unknown policy": lambda client: client.publish(topic="t", payload=b"x", queueFullPolicy="All"),
    "no topic": lambda client: client.publish(payload=b"x"),
    "positional": lambda client: client.publish("t", b"x"),
    "shadow without a name": lambda client: client.get_thing_shadow(),
    "update without a payload": lambda client: client.update_thing_shadow(thingName="x"),
    "delete without a name": lambda client: client.delete_thing_shadow(),
}


def outcome(call: Callable[[Any], Any], client: Any) -> tuple[str, Any]:
    try:
        return "returned", call(client)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other one must do the same
        text = str(error) if isinstance(error, ValueError) else ""
        return type(error).__name__, text


@pytest.mark.parametrize("name", CALLS)
def test_answers_as_the_sdk_does(name: str, real: Core, shim: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    client = importlib.import_module("greengrasssdk").client("iot-data")
    expected = outcome(CALLS[name], client)
    forget()
    monkeypatch.syspath_prepend(str(SHIM))
    ours = importlib.import_module("greengrasssdk")
    assert Path(str(ours.__file__)).is_relative_to(SHIM)

    assert outcome(CALLS[name], ours.client("iot-data")) == expected
    assert shim.messages == real.messages
    forget()


def test_has_the_clients_methods_of_the_sdk(real: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    def surface() -> dict[str, str]:
        sdk = importlib.import_module("greengrasssdk")
        data = importlib.import_module("greengrasssdk.IoTDataPlane").Client
        return {
            "client": str(inspect.signature(sdk.client).replace(return_annotation=inspect.Signature.empty))
            .replace(": str", "")
            .replace(": Any", ""),
            **{
                name: ", ".join(inspect.signature(method).parameters)
                for name, method in inspect.getmembers(data, inspect.isfunction)
                if not name.startswith("_")
            },
            "version": sdk.__version__,
            "body": str(hasattr(sdk, "StreamingBody")),
        }

    expected = surface()
    forget()
    monkeypatch.syspath_prepend(str(SHIM))

    assert surface() == expected
    forget()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "greengrasssdk.client('secretsmanager').get_secret_value(SecretId='s')",
            "='s'): Greengrass V2 serves",
        ),
        ("greengrasssdk.client('secretsmanager').get_secret_value()", '"SecretId" is a required parameter'),
        ("from greengrasssdk.SecretsManager import SecretsManagerError; raise SecretsManagerError(5)", "Error: 5"),
        ("greengrasssdk.client('streammanager')", "deploy the component aws.greengrass.StreamManager"),
        ("from greengrasssdk.stream_manager import StreamManagerClient", "aws.greengrass.StreamManager"),
        ("greengrasssdk.client('lambda').invoke(FunctionName='f')", "publish to a topic that the other handler"),
        ("greengrasssdk.client('iot-data').get_thing_shadow(thingName='t')", "$aws/things/t/shadow/get and subscribe"),
        ("greengrasssdk.client('x')", "'x' is not recognized"),
        ("from greengrass_common.env_vars import MY_FUNCTION_ARN", "from os.environ"),
        ("import greengrass_ipc_python_sdk", 'publish by greengrasssdk.client("iot-data")'),
    ],
)
def test_what_v1_had_and_v2_has_not_says_what_to_do(code: str, reason: str) -> None:
    code = f"import greengrasssdk; {code}"
    path = f"{SHIM}:{SHIM.parent}"

    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**NEEDED, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert reason in run.stderr


def test_outside_of_a_handler_component_publishing_says_so() -> None:
    code = "import greengrasssdk; greengrasssdk.client('iot-data').publish(topic='t')"

    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**NEEDED, "PYTHONPATH": f"{SHIM}:{SHIM.parent}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert "greengrasssdk works in a handler component only" in run.stderr
