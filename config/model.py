"""What a stage's file may say of a model, and how it is served."""

import difflib
import ipaddress
import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from config.names import Names
from config.places import ASSETS, MODELS
from config.section import Section, Slug


class Neo(Section):
    """A SageMaker compilation job; its rules are the API's, checked when the stack is defined.

    Attributes:
        device: One of SageMaker's devices, such as `jetson_xavier`; by default Linux on the runtime's architecture.
        accelerator: `INTEL_GRAPHICS`, `MALI`, `NVIDIA` or `NNA`; the processor by default.
        compiler_options: The compiler's own.
        max_runtime_minutes: After so long the job is stopped.
        subnets: Of the VPC that the job runs in; none by default.
        security_groups: Of that VPC.
    """

    device: str = ""
    accelerator: str = ""
    compiler_options: dict[str, Any] = Field(default_factory=dict)
    max_runtime_minutes: int = 30
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()


class Verification(Section):
    """The endpoint that a model is verified on.

    Attributes:
        image: URI of the server's image; by default the newest Triton image of the SageMaker SDK's table for the
            region, with `neo` Neo's image of the framework.
        instance_type: Of the endpoint, which lives for one request.
        tolerance: Largest difference of an output value that is still right.
    """

    image: Annotated[str, StringConstraints(pattern=r"^\S{1,255}$")] | None = None
    instance_type: Annotated[str, StringConstraints(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = "ml.c5.large"
    tolerance: float = Field(default=1e-3, ge=0)


class Model(Section):
    """One model that the stage compiles, packages and deploys.

    Attributes:
        folder: Folder below `edge_assets/models`; also the model's name in topics and jobs.
        compiler: What is made of the source: `onnxruntime` lets the devices' own ONNX Runtime optimise it ahead of
            time, `none` leaves it as it is, `neo` runs a SageMaker compilation job, whose artifact is signed and kept
            beside the ONNX model that devices run.
        neo: The compilation job, with `neo` only.
        packager: `own`, or `edge-manager`: a SageMaker edge packaging job first, which AWS retired in 2024.
        verify: Whether a deploy asks the model its sample (`verification.json` in its folder) on an `endpoint`. With
            `neo` the endpoint has Neo's image of the framework that the model's `compilation` names, and the job's
            `device` is the endpoint's kind of instance.
        verification: That endpoint.
        local: Whether the device's own components may ask, too, on local topics that are called as those in the cloud.
        results: Where results of files go: to the `cloud`, to the device's own components (`local`), or to `both`.
        serving: Keys of the model's configuration on the device that differ from those of its folder.
    """

    folder: Slug
    compiler: Literal["neo", "onnxruntime", "none"] = "none"
    neo: Neo = Neo()
    packager: Literal["own", "edge-manager"] = "own"
    verify: Literal["none", "endpoint"] = "none"
    verification: Verification = Verification()
    local: bool = True
    results: Literal["cloud", "local", "both"] = "cloud"
    serving: dict[str, str | int | float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _sides_decide_what_is_allowed(self) -> "Model":
        if misplaced := sorted({"local", "results"} & set(self.serving)):
            raise ValueError(
                f"serving.{misplaced[0]} must be written without serving, beside folder: what the device allows "
                "follows from it"
            )
        return self

    @property
    def served_from(self) -> str:
        """Repository of the image that verifies it on an endpoint."""
        if image := self.verification.image:
            return re.sub("[:@].*", "", image.partition("/")[2])
        return "sagemaker-inference-pytorch" if self.compiler == "neo" else "sagemaker-tritonserver"

    @model_validator(mode="after")
    def _results_have_an_exact_topic(self) -> "Model":
        if isinstance(topic := self.serving.get("PublishResultsOnTopic"), str) and topic:
            check_result_topic("serving.PublishResultsOnTopic", topic)
        return self

    @model_validator(mode="after")
    def _neo_alone_has_settings(self) -> "Model":
        if self.compiler != "neo" and self.neo != Neo():
            raise ValueError(f"neo must be left out with compiler {self.compiler}")
        if self.compiler != "neo" and self.packager == "edge-manager":
            raise ValueError(f"packager edge-manager packs what neo compiled: set compiler to neo, got {self.compiler}")
        family = self.verification.instance_type.split(".")[1]
        if self.compiler == "neo" and self.verify == "endpoint" and self.neo.device != f"ml_{family}":
            raise ValueError(
                "verify endpoint runs what neo compiled for its own kind of instance, and for no other: set neo.device "
                f"to ml_{family} for {self.verification.instance_type}, got {self.neo.device!r}; or compiler to "
                "onnxruntime or none, or verify to none"
            )
        return self


CAMERA_PORTS = {"http": 80, "https": 443}
_METADATA = ipaddress.ip_network("169.254.0.0/16")


def camera_host(keys: Mapping[str, Any], where: str) -> tuple[str, int] | None:
    """Find the camera of a model's configuration.

    Args:
        keys: Of the model.
        where: Their place, for messages.

    Returns:
        Host and port; None without a camera.

    Raises:
        ValueError: The password of a camera, or an address that no device can use; neither is repeated.
    """
    if keys.get("cameraPassword"):
        raise ValueError(
            f"{where}.cameraPassword must not be in a file of the repository, which a template repeats: put it into a "
            "file on the device and name that in cameraPasswordFile"
        )
    if not (url := keys.get("cameraUrl")):
        return None
    try:
        parts = urlsplit(str(url))
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{where}.cameraUrl must be an address such as http://camera.local/video.mjpg") from exc
    if "@" in parts.netloc:
        raise ValueError(
            f"{where}.cameraUrl must hold no user and no password: move them to cameraUser and cameraPasswordFile"
        )
    if scheme not in CAMERA_PORTS or not host or port == 0:
        raise ValueError(
            f"{where}.cameraUrl must be an address such as http://camera.local/video.mjpg, got one of scheme "
            f"{scheme[:20] or 'none'}, host {(host or 'none')[:60]}: cameras are read over http or https"
        )
    address = _address(host)
    if address is None and not re.fullmatch(r"[\w-]+(\.[\w-]+)*\.?", host):
        raise ValueError(f"{where}.cameraUrl must name a host of letters, digits, dots and dashes, got {host[:60]!r}")
    if address is not None and address.version == _METADATA.version and address in _METADATA:
        raise ValueError(
            f"{where}.cameraUrl must be no link-local address, where EC2 hands out credentials, got {host}"
        )
    return host, port or CAMERA_PORTS[scheme]


def camera_ways(hosts: Sequence[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """What a network must let out for cameras: IPv4 ranges and ports.

    Args:
        hosts: Cameras by host and port; one on the device itself needs nothing.

    Yields:
        The camera's own address where it is one, else every address.
    """
    for host, port in dict.fromkeys(hosts):
        address = _address(host)
        if host != "localhost" and not (address and address.is_loopback):
            yield (f"{address}/32" if address else "0.0.0.0/0"), port


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        # What the system's resolver takes for an address, too: 2130706433, 0x7f.1
        return ipaddress.ip_address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


#: Of the camera and of topics the stage has rules of its own.
_CHECKED = {"cameraUrl", "cameraPassword", "PublishResultsOnTopic"}


def device_mistakes(keys: Mapping[str, Any], where: str) -> list[str]:
    """Check keys of a model's configuration by the rules of the component that gets them.

    Args:
        keys: Of the model.
        where: Their place, for messages.

    Returns:
        A line a mistake.
    """
    if not keys:
        return []
    if (root := str(ASSETS / "inference")) not in sys.path:
        sys.path.append(root)
    from edge_component.settings import ConfigurationError
    from edge_inference.settings import KEYS, parse

    mistakes = []
    for key in sorted(set(keys) - KEYS):
        near = difflib.get_close_matches(key, KEYS, 1)
        mistakes.append(f"{where}.{key} is unknown" + (f": did you mean {near[0]}?" if near else ": remove it"))
    known = {key: value for key, value in keys.items() if key in KEYS and key not in _CHECKED}
    topics = {"component": "local", "requestTopic": "local/request", "responseTopic": "local/response"}
    try:
        parse({"models": {"x": {**topics, **known}}})
    except ConfigurationError as exc:
        mistakes += [line.replace("models.x.", f"{where}.") for line in str(exc).splitlines()]
    return mistakes


STAGE = "{stage}"
_TOPIC = re.compile(r"[^+#*?${}\"\\\s\x00-\x1f\x7f]+", re.ASCII)


def check_result_topic(where: str, topic: str) -> None:
    """Refuse what is no topic of the whole fleet: IoT policies and access control name it.

    Args:
        where: What an error calls it.
        topic: `{stage}` in it stands for the stage's name.

    Raises:
        ValueError: It has wildcards, spaces, other braces, or too many characters.
    """
    longest = topic.replace(STAGE, "x" * 20)
    if not _TOPIC.fullmatch(longest) or len(longest.encode()) > 256:
        raise ValueError(
            f"{where} must be one topic of all devices, at most 256 bytes, without spaces, control characters and any "
            f'of +#*?${{}}"\\ but for {STAGE}, got {topic[:100]!r}: '
            "each result says its device; a handler's topics may have the device's name in them"
        )


def labels_in_an_answer(declaration: Mapping[str, Any]) -> int:
    """How many labels a model's answers have where its declaration says nothing; a detector's have many objects."""
    default = 100 if declaration.get("task") == "object-detection" else 3
    found: int = declaration.get("topK", default)
    return found


def has_reference(model: Model, models: Path = MODELS) -> bool:
    """Whether a model's devices compare their inputs with its samples: its folder names what those look like."""
    return bool(_declared(model, models).get("reference"))


def finds_objects(model: Model, models: Path = MODELS) -> bool:
    """Whether a model answers with objects and their boxes."""
    return _declared(model, models).get("task") == "object-detection"


def _declared(model: Model, models: Path) -> dict[str, Any]:
    """What a model's folder declares; nothing where it cannot be read: the model's own stack complains about it."""
    try:
        declaration = json.loads((models / model.folder / "model.json").read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return declaration if isinstance(declaration, dict) else {}


def serving(model: Model, names: Names, models: Path = MODELS) -> dict[str, Any]:
    """Read what a model's declaration says under `serving`: keys of the inference component's configuration.

    Args:
        model: As the stage lists it; its own keys win.
        names: Of the stage; `{stage}` in `PublishResultsOnTopic` stands for it, so that stages of one account, whose
            models have the same declarations, do not publish on the same topic.
        models: Where the folders lie.

    Returns:
        The keys; of a folder without a readable declaration only the stage's: the model's own stack complains about it.

    Raises:
        ValueError: `PublishResultsOnTopic` is no topic of the whole fleet.
    """
    try:
        declaration = json.loads((models / model.folder / "model.json").read_text(encoding="utf-8-sig"))
        found = {"topK": labels_in_an_answer(declaration), **declaration.get("serving", {}), **model.serving}
    except (OSError, ValueError, AttributeError, TypeError):
        found = dict(model.serving)
    if isinstance(topic := found.get("PublishResultsOnTopic"), str):
        if topic:
            check_result_topic(f"{model.folder}/model.json: serving.PublishResultsOnTopic", topic)
        found["PublishResultsOnTopic"] = topic.replace("{stage}", names.stage)
    # Of the stage alone, as what the device allows follows from it; the device knows the defaults.
    sides = {
        **({} if model.local else {"local": False}),
        **({} if model.results == "cloud" else {"results": model.results}),
    }
    return {key: value for key, value in found.items() if key not in ("local", "results")} | sides


def result_topics(names: Names, models: Sequence[Model]) -> list[str]:
    """List every topic in the cloud that the inference component publishes to.

    Args:
        names: Of the stage.
        models: Those that it lists.

    Returns:
        Exact topics, each once: answers, results of files and heartbeats.
    """
    topics = [names.response_topic(model.folder) for model in models]
    topics += _file_topics(names, [model for model in models if model.results != "local"])
    return list(dict.fromkeys([*topics, names.heartbeat_topic]))


def local_result_topics(names: Names, models: Sequence[Model]) -> list[str]:
    """List every local topic that the inference component publishes to; see `result_topics`."""
    topics = [names.response_topic(model.folder) for model in models if model.local or model.results != "cloud"]
    return list(dict.fromkeys([*topics, *_file_topics(names, [each for each in models if each.results != "cloud"])]))


def _file_topics(names: Names, models: Sequence[Model]) -> list[str]:
    return [topic for model in models if (topic := serving(model, names).get("PublishResultsOnTopic"))]
