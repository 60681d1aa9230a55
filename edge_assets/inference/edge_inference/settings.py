"""The component's configuration: checked as a whole before any of it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_component import settings as rules
from edge_component.settings import ConfigurationError, shown
from edge_inference.messages import FORMATS, OWN

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
#: The largest message that AWS IoT Core carries.
MQTT_BYTES = 128 * 1024

#: Optional whole numbers: key to default, least and largest value.
NUMBERS = {
    "topK": (3, 1, 100),
    "queueSize": (64, 1, 10_000),
    "maxRequestBytes": (MQTT_BYTES, 1024, 16 * 1024 * 1024),
    "modelWaitSeconds": (10, 0, 300),
}
#: Optional numbers, in the same way.
SHARES = {
    "threshold": (0.0, 0.0, 1.0),
    "InferenceInterval": (3600.0, 0.0, 31_536_000.0),
    "captureShare": (0.0, 0.0, 1.0),
    "captureBelow": (0.0, 0.0, 1.0),
}
PATHS = ("ImageName", "ImageDirectory", "WatchDirectory")
#: Every key of a model that this module reads.
KEYS = frozenset(
    ("component", "requestTopic", "responseTopic", "PublishResultsOnTopic", "resultFormat", *NUMBERS, *SHARES, *PATHS)
)


@dataclass(frozen=True)
class ModelSettings:
    """How one model is served.

    Args:
        name: Key of the model in the configuration.
        component: Greengrass component that brings it.
        request_topic: Where requests arrive.
        response_topic: Where answers go.
        top_k: Labels in an answer.
        queue_size: Requests that wait at most; one more gets an error answer.
        max_request_bytes: A larger request gets an error answer unread.
        model_wait_s: How long a request waits for the first model, from its arrival.
        threshold: Labels of a smaller probability are left out, 0 to 1.
        image_name: File that is predicted at the start and then every `interval_s`; empty for none.
        image_directory: Folder of that file; empty for the model's package.
        interval_s: Seconds between two predictions of that file; 0 for one at the start and one at each change of it.
        watch_directory: Folder whose files are predicted and removed, in the order of their names; empty for none.
        result_topic: Where the predictions of files go.
        result_format: Their form.
        capture_share: Share of predictions whose input and output are captured, 0 to 1.
        capture_below: Predictions of a smaller probability are captured in any case.
    """

    name: str
    component: str
    request_topic: str
    response_topic: str
    top_k: int
    queue_size: int
    max_request_bytes: int
    model_wait_s: int
    threshold: float = 0
    image_name: str = ""
    image_directory: str = ""
    interval_s: float = 3600
    watch_directory: str = ""
    result_topic: str = ""
    result_format: str = OWN
    capture_share: float = 0
    capture_below: float = 0


def parse(value: object) -> dict[str, ModelSettings]:
    """Check a configuration.

    Args:
        value: What the device holds: `{"models": {name: {...}}}`, see docs/workloads.md; other keys are not this
            module's business.

    Returns:
        Settings by model name, complete with defaults.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    models = value.get("models") if isinstance(value, Mapping) else None
    if not isinstance(models, Mapping):
        raise ConfigurationError(f"models must be an object, got {shown(models)}")
    mistakes: list[str] = []
    settings = {str(name): _model(str(name), entry, mistakes) for name, entry in models.items()}
    if not mistakes:
        _check_topics(settings, mistakes)
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return settings


def _model(name: str, entry: object, mistakes: list[str]) -> ModelSettings:
    where = f"models.{name}"
    if not NAME.fullmatch(name):
        mistakes.append(f"{where}: a name must be letters, digits, '_' and '-', at most 63, got {shown(name)}")
    if not isinstance(entry, Mapping):
        mistakes.append(f"{where} must be an object, got {shown(entry)}")
        entry = {}
    component = entry.get("component")
    # It becomes a folder's name: nothing may lead out of the work folder.
    if not (isinstance(component, str) and COMPONENT.fullmatch(component)):
        mistakes.append(f"{where}.component must be a component's name, got {shown(component)}")
    topics = {key: rules.topic(f"{where}.{key}", entry.get(key), mistakes) for key in ("requestTopic", "responseTopic")}
    numbers = {
        key: rules.whole_number(f"{where}.{key}", entry.get(key, limits[0]), limits, mistakes)
        for key, limits in NUMBERS.items()
    }
    shares = {
        key: rules.number(f"{where}.{key}", entry.get(key, limits[0]), limits, mistakes)
        for key, limits in SHARES.items()
    }
    paths = {key: rules.path(f"{where}.{key}", entry.get(key, ""), mistakes) for key in PATHS}
    result_topic = entry.get("PublishResultsOnTopic") or topics["responseTopic"]
    if "PublishResultsOnTopic" in entry:
        rules.topic(f"{where}.PublishResultsOnTopic", result_topic, mistakes)
    return ModelSettings(
        name=name,
        component=str(component),
        request_topic=topics["requestTopic"],
        response_topic=topics["responseTopic"],
        top_k=numbers["topK"],
        queue_size=numbers["queueSize"],
        max_request_bytes=numbers["maxRequestBytes"],
        model_wait_s=numbers["modelWaitSeconds"],
        threshold=shares["threshold"],
        image_name=paths["ImageName"],
        image_directory=paths["ImageDirectory"],
        interval_s=shares["InferenceInterval"],
        watch_directory=paths["WatchDirectory"],
        result_topic=str(result_topic),
        result_format=rules.choice(f"{where}.resultFormat", entry.get("resultFormat", OWN), FORMATS, mistakes),
        capture_share=shares["captureShare"],
        capture_below=shares["captureBelow"],
    )


def _check_topics(settings: Mapping[str, ModelSettings], mistakes: list[str]) -> None:
    owners: dict[str, str] = {}
    for model in settings.values():
        other = owners.setdefault(model.request_topic, model.name)
        if other != model.name:
            mistakes.append(f"models.{model.name}.requestTopic must be its own, got that of models.{other}")
    for model in settings.values():
        for key, topic in (("responseTopic", model.response_topic), ("PublishResultsOnTopic", model.result_topic)):
            if topic in owners:
                # The component would answer its own answers, for ever.
                mistakes.append(
                    f"models.{model.name}.{key} must not be a request topic, got that of models.{owners[topic]}"
                )


DAY_S = 86_400.0
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class ServiceSettings:
    """What concerns the component as a whole.

    Args:
        heartbeat_topic: Where the heartbeat goes; empty for none.
        heartbeat_s: Seconds between two heartbeats.
        capture_bucket: S3 bucket that takes captured inputs and outputs; empty for none.
        capture_bytes: Captures that wait for their upload take no more disk than this; the oldest go first.
    """

    heartbeat_topic: str = ""
    heartbeat_s: float = 60
    capture_bucket: str = ""
    capture_bytes: int = 64 * MEBIBYTE


def parse_service(value: object) -> ServiceSettings:
    """Check the keys heartbeatTopic, heartbeatSeconds, captureBucket and captureBytes.

    Args:
        value: The whole configuration.

    Returns:
        The settings, complete with defaults.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    given = value if isinstance(value, Mapping) else {}
    mistakes: list[str] = []
    topic = given.get("heartbeatTopic", "")
    if topic != "":
        rules.topic("heartbeatTopic", topic, mistakes)
    settings = ServiceSettings(
        heartbeat_topic=str(topic),
        heartbeat_s=rules.number("heartbeatSeconds", given.get("heartbeatSeconds", 60), (60, 1, DAY_S), mistakes),
        capture_bucket=rules.path("captureBucket", given.get("captureBucket", ""), mistakes),
        capture_bytes=rules.whole_number(
            "captureBytes",
            given.get("captureBytes", 64 * MEBIBYTE),
            (64 * MEBIBYTE, MEBIBYTE, 1 << 40),
            mistakes,
        ),
    )
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return settings


#: sizeof(sockaddr_un.sun_path) on Linux, less the terminating zero (unix(7)).
SOCKET_BYTES = 107

#: Optional whole numbers: key to field, default, least and largest value.
AGENT_NUMBERS = {
    "maxModels": ("max_models", 8, 1, 64),
    "maxTensorBytes": ("max_tensor_bytes", 32 << 20, 1 << 10, 256 << 20),
    "pendingCaptures": ("pending_captures", 16, 1, 1000),
    "captureBytes": ("capture_bytes", 64 << 20, 1 << 20, 1 << 40),
}
AGENT_TEXTS = {"socket": "agent.sock", "captureFolder": "agent-captures"}


@dataclass(frozen=True)
class AgentSettings:
    """How the agent serves. Paths that are not absolute lie in the component's work folder.

    Args:
        socket: Unix socket to listen on.
        capture_folder: Where captures are kept.
        max_models: Models that clients may load.
        max_tensor_bytes: The largest tensor.
        pending_captures: Captures that wait to be written.
        capture_bytes: All captures on disk.
    """

    socket: str
    capture_folder: str
    max_models: int
    max_tensor_bytes: int
    pending_captures: int
    capture_bytes: int


def parse_agent(configuration: object) -> AgentSettings | None:
    """Check the component's configuration.

    Args:
        configuration: The whole of it; `agent` is an object with the optional keys `enabled` (default true),
            `socket` (`agent.sock`), `captureFolder` (`agent-captures`), `maxModels` (8), `maxTensorBytes` (32 MiB),
            `pendingCaptures` (16) and `captureBytes` (64 MiB).

    Returns:
        The settings; None without `agent`, or where it is not enabled.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    value = configuration.get("agent") if isinstance(configuration, Mapping) else None
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"agent must be an object, got {shown(value)}")
    known = {"enabled", *AGENT_NUMBERS, *AGENT_TEXTS}
    mistakes = [f"agent.{key} is unknown" for key in sorted(set(map(str, value)) - known)]
    enabled = value.get("enabled", True)
    if not isinstance(enabled, bool):
        mistakes.append(f"agent.enabled must be true or false, got {shown(enabled)}")
    texts = {key: _text(key, value.get(key, default), mistakes) for key, default in AGENT_TEXTS.items()}
    if len(texts["socket"].encode()) > SOCKET_BYTES:
        mistakes.append(f"agent.socket must have at most {SOCKET_BYTES} bytes, got {len(texts['socket'].encode())}")
    numbers = {
        field: _number(key, value.get(key, default), least, largest, mistakes)
        for key, (field, default, least, largest) in AGENT_NUMBERS.items()
    }
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    if not enabled:
        return None
    return AgentSettings(socket=texts["socket"], capture_folder=texts["captureFolder"], **numbers)


def _text(key: str, value: object, mistakes: list[str]) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        mistakes.append(f"agent.{key} must be a path, got {shown(value)}")
    return str(value)


def _number(key: str, value: object, least: int, largest: int, mistakes: list[str]) -> int:
    # A device may store every number as a floating-point one.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= largest:
        mistakes.append(f"agent.{key} must be a whole number from {least} to {largest}, got {shown(value)}")
        return least
    return whole
