"""Functions start as copies of a loaded process, and keep their process as on AWS."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.places import IMPORTS
from tests.twin.conftest import Clients, wait_until
from twin.cloud import functions
from twin.cloud.functions import Forker

CODE = """
import os, sys, time
calls = []

def handler(event, context):
    calls.append(event)
    if event.get("do") == "raise":
        raise ValueError("on purpose")
    if event.get("do") == "exit":
        os._exit(3)
    if event.get("do") == "sleep":
        time.sleep(60)
    if event.get("do", "").startswith("log "):
        print(event["do"], file=sys.stderr)
    return {"pid": os.getpid(), "calls": len(calls), "loaded": "botocore.session" in sys.modules,
            "name": os.environ["AWS_LAMBDA_FUNCTION_NAME"], "path": os.environ.get("PYTHONPATH", "")}
"""
ECHO = """
import os, sys
for line in sys.stdin:
    print(line.strip(), os.environ["WHO"], os.getcwd(), len(os.environ), flush=True)
print("bye", file=sys.stderr)
"""


@pytest.fixture
def forker() -> Iterator[Forker]:
    made = Forker()
    asyncio.run(made.start())
    yield made
    asyncio.run(made.stop())


@pytest.fixture
def function(client: Clients) -> Iterator[str]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", CODE)
    client("lambda").create_function(
        FunctionName="copied",
        Runtime="python3.13",
        Role="arn:aws:iam::000000000000:role/none",
        Handler="main.handler",
        Code={"ZipFile": archive.getvalue()},
        Timeout=60,
    )
    yield "copied"
    client("lambda").delete_function(FunctionName="copied")


def invoke(client: Clients, function: str, do: str = "") -> dict[str, Any]:
    answer = client("lambda").invoke(FunctionName=function, Payload=json.dumps({"do": do}).encode())
    return {"error": answer.get("FunctionError"), **json.loads(answer["Payload"].read() or b"{}")}


def test_a_copy_has_the_streams_the_folder_and_the_environment_that_it_is_given(forker: Forker, tmp_path: Path) -> None:
    script = tmp_path / "echo.py"
    script.write_text(ECHO)

    process = forker.fork(str(script), cwd=str(tmp_path), env={"WHO": "me"})

    assert process
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert process.stdout.readline() == f"hello me {tmp_path} 1\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(30) == 0
    assert process.stderr.read() == "bye\n"


def test_a_copy_can_be_ended_and_is_not_waited_for_longer_than_told(forker: Forker, tmp_path: Path) -> None:
    script = tmp_path / "sleep.py"
    script.write_text("import time\ntime.sleep(60)\n")
    process = forker.fork(str(script), cwd=str(tmp_path), env={})
    assert process

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.terminate()
    process.wait(30)
    process.kill()  # of one that has ended: nothing happens


def test_a_script_that_fails_says_so_on_its_own_error_stream(forker: Forker, tmp_path: Path) -> None:
    script = tmp_path / "fail.py"
    script.write_text('raise ValueError("on purpose")\n')

    process = forker.fork(str(script), cwd=str(tmp_path), env={})

    assert process
    process.wait(30)
    assert "ValueError: on purpose" in process.stderr.read()


def test_without_the_process_to_copy_functions_start_by_themselves(forker: Forker, tmp_path: Path) -> None:
    template = forker._template
    assert template
    os.kill(template.pid, signal.SIGKILL)
    template.wait(30)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    assert forker.fork("any.py", cwd=str(tmp_path), env={}) is None
    assert forker.fork("any.py", cwd=str(tmp_path), env={}) is None
    # Its own end of the channel is closed, too.
    assert len(list(Path("/proc/self/fd").iterdir())) < descriptors


def test_a_function_starts_with_the_sdk_loaded_and_its_own_environment(client: Clients, function: str) -> None:
    answer = invoke(client, function)

    assert (answer["error"], answer["loaded"], answer["name"], answer["path"]) == (None, True, "copied", "")


def test_what_a_function_logs_comes_with_its_answer(client: Clients, function: str) -> None:
    def logged(line: str) -> str:
        answer = client("lambda").invoke(FunctionName=function, Payload=json.dumps({"do": line}), LogType="Tail")
        return base64.b64decode(answer["LogResult"]).decode().strip()

    lines = [f"log {number}" for number in range(20)]

    assert [logged(line) for line in lines] == lines


@pytest.mark.parametrize(("written", "waits"), [(b"", {"first_line_wait": functions._QUIET_S}), (b"a line", {})])
def test_a_log_that_has_nothing_to_read_is_waited_for_briefly(written: bytes, waits: dict[str, float]) -> None:
    reading, writing = os.pipe()
    os.write(writing, written)
    asked: list[dict[str, float]] = []

    def collect(_worker: Any, **named: float) -> str:
        asked.append(named)
        return ""

    with os.fdopen(reading) as stderr, os.fdopen(writing, "wb"):
        functions._collect_log(collect, SimpleNamespace(_proc=SimpleNamespace(stderr=stderr)))

    assert asked == [waits]


def test_a_function_that_raises_keeps_its_process(client: Clients, function: str) -> None:
    first = invoke(client, function)
    failed = invoke(client, function, "raise")
    again = invoke(client, function)

    assert (failed["error"], failed["errorMessage"]) == ("Unhandled", "on purpose")
    assert (again["pid"], again["calls"]) == (first["pid"], 3)


@pytest.mark.parametrize("do", ["exit", "sleep"])
def test_a_function_that_ends_or_takes_too_long_gets_another_process(client: Clients, function: str, do: str) -> None:
    if do == "sleep":
        client("lambda").update_function_configuration(FunctionName=function, Timeout=2)

    def answered() -> dict[str, Any] | None:
        """What it says in time, also on a busy machine."""
        answer = invoke(client, function)
        return None if answer["error"] else answer

    first = wait_until(answered)
    failed = invoke(client, function, do)
    again = wait_until(answered)

    assert failed["error"]
    assert again["pid"] != first["pid"]
    assert again["calls"] == 1
    assert not Path(f"/proc/{first['pid']}").exists() or _ends(first["pid"])


def _ends(pid: int, limit_s: float = 30) -> bool:
    deadline = time.monotonic() + limit_s
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not Path(f"/proc/{pid}").exists()


COPY = """
from twin.cloud import function_template
function_template._load()
from botocore.loaders import JSONFileLoader
parsed, load = [], JSONFileLoader._load_file
JSONFileLoader._load_file = lambda loader, path, way: (parsed.append(path), load(loader, path, way))[1]
import boto3
keys = {"region_name": "us-east-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}
for service in ("iot", "s3", "dynamodb"):
    boto3.client(service, **keys)
    boto3.session.Session().client(service, **keys)
print([service for service in ("iot", "s3", "dynamodb") if any(f"/{service}/" in path for path in parsed)])
"""


def test_a_copy_parses_the_models_of_no_service_that_is_loaded() -> None:
    command = [sys.executable, "-c", COPY]
    done = subprocess.run(command, cwd=IMPORTS, capture_output=True, text=True, timeout=60, check=False)

    assert done.stdout == "['dynamodb']\n", done.stderr
