"""Ask a model of the fleet, or listen to what it says: over the twin's MQTT, and by `tools.predict` over AWS IoT."""

from __future__ import annotations

import base64
import io
import json
import queue
import secrets
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.table import Table

from config.loader import ConfigurationError, load_stage
from config.model import serving
from config.names import Names
from config.places import MODELS
from config.stage import Stage
from nucleus_lite.deployment import PACKET_BYTES
from twin import TwinError
from twin.pictures import fitted, half_blocks

Json = dict[str, Any]
Clients = Callable[[str], Any]
#: What AWS IoT takes.
MESSAGE_BYTES = 128 << 10
_AROUND_PICTURE = 250  # topic, braces, request_id, device
_SILENCE_S = 30.0

#: A longer packet makes nucleus lite lose its connection.
LONGEST = PACKET_BYTES.value


class Link(Protocol):
    """A connected MQTT client."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish, QoS 1."""

    def listen(self, topic: str) -> AbstractContextManager[queue.SimpleQueue[bytes]]:
        """Receive everything on an exact topic while in the block."""


Connect = Callable[[], AbstractContextManager[Link]]


@dataclass(frozen=True)
class Question:
    """A request that is ready to be sent.

    Attributes:
        model: The model's name.
        request: What is published.
        picture: The picture in it, or the sample that it asks for, as a file; empty if there is none.
        note: What was done to the picture, or what the sample is.
    """

    model: str
    request: Json
    picture: bytes = b""
    note: str = ""


def stage_of(name: str) -> Stage:
    """Read a stage.

    Raises:
        TwinError: Its file is missing or wrong.
    """
    try:
        return load_stage(name)
    except ConfigurationError as exc:
        raise TwinError(str(exc)) from exc


def question(
    stage: Stage,
    model: str | None,
    index: int | None,
    image: Path | None,
    features: str | None,
    inputs: str | None,
    longest: int = LONGEST,
) -> Question:
    """Make a request of what stands on the command line.

    Args:
        stage: Whose model it is.
        model: Its name.
        index: Place among the held-out samples.
        image: A picture's file.
        features: A table's row, JSON.
        inputs: Tensors, JSON.
        longest: The longest message, bytes; pictures are made to fit.

    Raises:
        TwinError: The stage has no such model, not exactly one thing is asked, or it cannot be sent.
    """
    model = _listed(stage, model)
    given = {"--index": index, "--image": image, "--features": features, "--inputs": inputs}
    if len(names := [name for name, value in given.items() if value is not None]) != 1:
        raise TwinError(f"one of {', '.join(given)} must be given, got {' and '.join(names) or 'none'}")
    if index is not None:
        picture, label = sample_of(model, index)
        return Question(model, {"index": index}, picture, f"sample {index} is {label}" if label else "")
    if image is not None:
        try:
            content = image.read_bytes()
        except OSError as exc:
            raise TwinError(f"--image must be a readable file, got {image}: {exc.strerror}") from exc
        return of_picture(model, content, image.name, longest)
    text, key = (features, "features") if features is not None else (inputs, "inputs")
    try:
        value = json.loads(text or "")
    except (ValueError, RecursionError) as exc:
        raise TwinError(f"--{key} must be JSON in quotes of the shell, got {(text or '')[:200]!r}: {exc}") from exc
    asked = Question(model, {key: value})
    if (size := len(json.dumps(asked.request)) + _AROUND_PICTURE) > longest:
        raise TwinError(f"a message must have at most {longest} bytes, got about {size}: raise --message-bytes")
    return asked


def _listed(stage: Stage, model: str | None) -> str:
    listed = [each.folder for each in stage.models]
    if model not in listed:
        raise TwinError(f"MODEL must be one that stage {stage.name} lists: {', '.join(listed)}, got {model or 'none'}")
    return str(model)


def of_picture(model: str, content: bytes, name: str, longest: int = LONGEST) -> Question:
    """Make a request of a picture, which is made to fit into a message.

    Args:
        model: The model's name.
        content: A file of any format that Pillow reads.
        name: The file's, for messages.
        longest: The longest message, bytes.

    Raises:
        TwinError: It is no picture.
    """
    picture, note = fitted(content, name, (longest - _AROUND_PICTURE) // 4 * 3)
    return Question(model, {"image": base64.b64encode(picture).decode()}, picture, note)


@lru_cache(maxsize=1024)
def sample_of(model: str, index: int) -> tuple[bytes, str]:
    """A held-out sample's picture and its label, as far as the model's folder tells them.

    Args:
        model: The model's name.
        index: Its place.

    Returns:
        A PNG and the label; empty what there is not.
    """
    picture, label = b"", ""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        declaration, arrays = samples_of(model)
        if "labels" in arrays:
            label = str(declaration["labels"][int(arrays["labels"][index])])
        if "images" in arrays:
            import numpy as np
            from PIL import Image

            brightest = declaration["samples"].get("maximum", 1)
            pixels = np.rint(arrays["images"][index] * (255 / brightest)).astype(np.uint8)
            pixels = pixels[..., 0] if pixels.ndim > 2 and pixels.shape[-1] == 1 else pixels
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            picture = file.getvalue()
    return picture, label


@lru_cache(maxsize=4)
def samples_of(model: str) -> tuple[Json, dict[str, Any]]:
    """A model's declaration, and the arrays of its held-out samples."""
    import numpy as np

    declaration = json.loads((MODELS / model / "model.json").read_text(encoding="utf-8-sig"))
    if isinstance(labels := declaration.get("labels"), str):
        declaration["labels"] = (MODELS / model / labels).read_text(encoding="utf-8-sig").splitlines()
    with np.load(MODELS / model / declaration["samples"]["file"], allow_pickle=False) as arrays:
        return declaration, dict(arrays)


def ask(link: Link, names: Names, asked: Question, timeout_s: float) -> Json:
    """Send a request and wait for its answer.

    Args:
        link: Connected.
        names: Of the stage.
        asked: What to ask.
        timeout_s: How long to wait.

    Raises:
        TwinError: No answer came in time, or it is an error; then the device's words are in it.
    """
    identifier = secrets.token_hex(8)
    with link.listen(names.response_topic(asked.model)) as heard:
        message = json.dumps({"request_id": identifier, **asked.request}, separators=(",", ":"))
        link.publish(names.request_topic(asked.model), message.encode())
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            with suppress(queue.Empty, ValueError, AttributeError, RecursionError):
                answer = json.loads(heard.get(timeout=left))
                if answer.get("request_id") == identifier:
                    return dict(answer)
    raise TwinError(f"{asked.model} of stage {names.stage} must answer within {timeout_s:g} s, it did not")


def why_silent(clients: Clients, names: Names) -> str:
    """Look for the reason why nobody answers.

    Args:
        clients: Makes an AWS client of a service's name.
        names: Of the stage.

    Returns:
        What is wrong and what to do, a line each.
    """
    try:
        groups = clients("iot").list_thing_groups(namePrefixFilter=names.thing_group)["thingGroups"]
        if names.thing_group not in [group["groupName"] for group in groups]:
            return f"stage {names.stage} is not deployed there: npx cdk deploy -c stage={names.stage} --all"
        things = clients("iot").list_things_in_thing_group(thingGroupName=names.thing_group, recursive=True)["things"]
        greengrass = clients("greengrassv2")
        cores = {each["coreDeviceThingName"]: each for each in greengrass.list_core_devices()["coreDevices"]}
        if not (joined := [cores[thing] for thing in {*things, names.edge_server} if thing in cores]):
            return "no device of the stage has joined yet: wait, then look at the edge server's log"
        lines = []
        for core in joined[:5]:
            thing = core["coreDeviceThingName"]
            deployments = greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
            states = {each["coreDeviceExecutionStatus"]: each.get("reason", "") for each in deployments}
            said = ", ".join(f"{status} {reason}".strip() for status, reason in states.items()) or "none yet"
            lines.append(f"{thing} is {core['status']}, deployments: {said}")
        return "\n".join([*lines, f"look at the log of {names.inference_component}, and at the request's device name"])
    except (ClientError, BotoCoreError) as exc:
        return f"why could not be found out: {exc}"


def answer_topics(stage: Stage) -> dict[str, str]:
    """Where devices say what models answer, and what they make of files, to the model's name."""
    names, found = Names(stage.name), dict[str, str]()
    for model in stage.models:
        found[names.response_topic(model.folder)] = model.folder
        if topic := serving(model, names).get("PublishResultsOnTopic"):
            found[str(topic)] = model.folder
    return found


def watch(link: Link, stage: Stage, models: list[str], count: int | None) -> Iterator[tuple[str, bytes]]:
    """Receive what devices say of models: answers, and results of files.

    Args:
        link: Connected.
        stage: Whose models.
        models: Their names.
        count: End after so many; by default never.

    Yields:
        Topic and message; after 30 s without one an empty message.
    """
    with ExitStack() as stack:
        topics = [topic for topic, model in answer_topics(stage).items() if model in models]
        heard = {topic: stack.enter_context(link.listen(topic)) for topic in topics}
        seen, last = 0, time.monotonic()
        while count is None or seen < count:
            before = seen
            for topic, messages in heard.items():
                while (count is None or seen < count) and not messages.empty():
                    seen, last = seen + 1, time.monotonic()
                    yield topic, messages.get()
            if seen == before:
                if time.monotonic() - last > _SILENCE_S:
                    last = time.monotonic()
                    yield ", ".join(heard), b""
                time.sleep(0.05)


def line_of(topic: str, message: bytes) -> str:
    """Say in one line what a device said."""
    if not message:
        return f"nothing for {_SILENCE_S:.0f} s on {topic}"
    head = time.strftime("%H:%M:%S")
    try:
        answer = json.loads(message)
        if "error" in answer:
            return f"{head} {topic}: {answer['error']['code']}: {answer['error']['message']}"
        if "inference-results" in answer:
            found = ", ".join(f"{each['Label']} {each['Score']:.3f}" for each in answer["inference-results"])
            return f"{head} {topic}: {found or 'nothing above the threshold'} ({answer.get('inference-description')})"
        named = answer.get("objects") or answer.get("top_k") or []
        found = ", ".join(f"{each['label']} {each['probability']:.3f}" for each in named)
        said = found or ("no object" if "objects" in answer else json.dumps(answer.get("outputs"))[:200])
        return f"{head} {answer['device']}: {said} ({answer['latency_ms']:.2f} ms)"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{head} {topic}: {message[:200].decode(errors='replace')}"


def show(console: Console, asked: Question, answer: Json, round_trip_s: float) -> None:
    """Print an answer, and the picture where the terminal can show it."""
    if asked.picture and console.is_terminal and console.color_system == "truecolor":
        console.file.write(half_blocks(asked.picture))
    if asked.note:
        console.print(asked.note)
    model = answer.get("model", {})
    who = f"{answer.get('device')} says ({model.get('name')} {model.get('version')})"
    said = answer.get("label") or json.dumps(answer.get("outputs"))
    if "objects" in answer:
        said = f"{len(answer['objects'])} objects in {' x '.join(map(str, answer.get('size', [])))} pixels"
    console.print(f"{who}: {said}")
    table = Table(box=None, show_header=False, pad_edge=False)
    for each in answer.get("objects") or answer.get("top_k") or []:
        box = ", ".join(f"{place:g}" for place in each.get("box", []))
        table.add_row(each["label"], f"{each['probability']:.3f}", "█" * round(each["probability"] * 30), box)
    console.print(table)
    if "notice" in answer:
        console.print(f"notice: {answer['notice']}")
    console.print(f"{answer.get('latency_ms', 0):.2f} ms on the device, {round_trip_s * 1000:.0f} ms there and back")


def ask_and_show(
    connect: Connect, clients: Clients, stage: Stage, asked: Question, *, timeout_s: float, as_json: bool
) -> None:
    """Connect, ask, and print the answer.

    Args:
        connect: Makes the client.
        clients: Makes AWS clients, to look for the reason of silence.
        stage: The stage.
        asked: The request.
        timeout_s: How long to wait for an answer.
        as_json: Print it as it came.

    Raises:
        TwinError: Nobody answered, or with an error.
    """
    names = Names(stage.name)
    with connect() as link:
        started = time.monotonic()
        try:
            answer = ask(link, names, asked, timeout_s)
        except TwinError as exc:
            size = len(json.dumps(asked.request)) + _AROUND_PICTURE
            long = f"\nthe message has about {size} bytes, nucleus lite takes {LONGEST}" if size > LONGEST else ""
            raise TwinError(f"{exc}{long}\n{why_silent(clients, names)}") from exc
        took_s = time.monotonic() - started
    if as_json:
        typer.echo(json.dumps(answer))
    elif "error" not in answer:
        show(_console(), asked, answer, took_s)
    if "error" in answer:
        raise TwinError(f"{answer.get('device')} says {answer['error']['code']}: {answer['error']['message']}")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


_Model = Annotated[str | None, typer.Argument(help="The model's name, such as digits; with --watch, all by default.")]
_Index = Annotated[int | None, typer.Option("--index", min=0, help="A held-out sample that travels with the model.")]
_Picture = Annotated[Path | None, typer.Option("--image", help="A picture; one that is too large is scaled down.")]
_Features = Annotated[str | None, typer.Option("--features", help="A row as JSON: an object by names, or a list.")]
_Inputs = Annotated[str | None, typer.Option("--inputs", help="Raw tensors as JSON: an object of nested lists.")]
_Device = Annotated[str | None, typer.Option("--device", help="Only this device shall answer; by default all do.")]
_Watching = Annotated[bool, typer.Option("--watch", help="Show what devices say, until Ctrl-C or --count.")]
_Count = Annotated[int | None, typer.Option("--count", min=1, help="End --watch after so many messages.")]
_Timeout = Annotated[float, typer.Option("--timeout", min=1, max=300, help="Seconds to wait for an answer.")]
_Longest = Annotated[
    int,
    typer.Option(
        "--message-bytes", min=1000, max=MESSAGE_BYTES, help="Longest message; the classic nucleus takes 131072."
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print messages as they came.")]


def command(
    stage_by_default: str, place: Callable[[Stage], tuple[Connect, Clients]], about: str
) -> Callable[..., None]:
    """Make a command line that asks a model, or listens.

    Args:
        stage_by_default: The stage's name.
        place: Where a stage is, once the command line is right: makes its MQTT client, and AWS clients.
        about: Says what the command does.
    """

    def predict(
        model: _Model = None,
        index: _Index = None,
        image: _Picture = None,
        features: _Features = None,
        inputs: _Inputs = None,
        device: _Device = None,
        watching: _Watching = False,
        count: _Count = None,
        timeout: _Timeout = 15,
        longest: _Longest = LONGEST,
        stage: Annotated[str, typer.Option("--stage", help="The deployed stage.")] = stage_by_default,
        as_json: _AsJson = False,
    ) -> None:
        wanted = stage_of(stage)
        if not watching:
            asked = question(wanted, model, index, image, features, inputs, longest)
            asked.request.update({"device": device} if device else {})
            connect, clients = place(wanted)
            ask_and_show(connect, clients, wanted, asked, timeout_s=timeout, as_json=as_json)
            return
        if any(subject is not None for subject in (index, image, features, inputs)):
            raise TwinError("--watch only listens: leave --index, --image, --features and --inputs to another terminal")
        models = [each.folder for each in wanted.models] if model is None else [_listed(wanted, model)]
        (connect, _), console = place(wanted), _console()
        with suppress(KeyboardInterrupt), connect() as link:
            for topic, message in watch(link, wanted, models, count):
                if not as_json:
                    console.print(line_of(topic, message))
                elif message:
                    typer.echo(message.decode(errors="replace"))

    predict.__doc__ = about
    return predict
