"""The component's configuration as tables of fields: of a model, of the component as a whole, of the agent."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_component.ipc import Side
from edge_component.settings import (
    FLAG,
    NAME,
    PATH_BYTES,
    ConfigurationError,
    accepted,
    choice,
    known,
    number,
    path,
    read,
    setting,
    shown,
    text,
    topic,
    whole,
)
from edge_inference.camera import ADDRESS, NO_SECRET, SECRET, Secret, Source
from edge_inference.messages import FORMATS, OWN

COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
DAY_S = 86_400
#: The largest message that AWS IoT Core carries.
MQTT_BYTES = 128 * KIBIBYTE
#: sizeof(sockaddr_un.sun_path) on Linux, less the terminating zero (unix(7)).
SOCKET_BYTES = 107

ACCELERATORS = ("cpu", "openvino", "cuda", "tensorrt")
RESULTS = ("cloud", "local", "both")
_SHARE = number(0, 1)
_PATH = path(PATH_BYTES, empty=True)
_USER = text("a name of at most 128 characters without a colon", re.compile(r"[^\x00-\x1f:]{0,128}"))


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How one model is served; `name` is its key in the configuration.

    Attributes:
        component: component that brings the model
        request_topic: where requests arrive
        response_topic: where answers go
        local: whether the device's own components may ask, too, on its local topics of these names
        results: where results of files go: to the cloud, to the device's components, or both
        top_k: labels, or objects, in an answer
        queue_size: requests that wait; one more gets an error answer
        max_request_bytes: a larger request gets an error answer unread
        model_wait_s: patience of a request for the first model, from its arrival
        threads: processor cores for one input; 0 for all, and never more than the process may use
        parallel: inputs that are worked on at a time; 0 for as many as cores and threads allow; answers keep their
            order
        batch: inputs that are run together where they wait and the model's batch is free; 1 for none
        accelerator: where it runs first, if the device's ONNX Runtime can: else on the processor, which the heartbeat
            tells
        threshold: labels and objects of a smaller probability are left out
        approved: version of the model that may answer; another one is compared with it first; by default every version
            may
        candidate_mb: memory that the other one may take; more is not run; 0 for any
        interval_s: seconds between two predictions of `ImageName`; 0 for the start and changes only
        capture_share: share of predictions to capture
        capture_below: predictions of a smaller probability are all captured
        image_name: a file (a picture, or a request as `.json`) predicted at the start, when it changes and at each
            interval
        image_directory: folder of that file, in place of the model's package
        watch_directory: every complete file in it is predicted and **removed** once its result is safe; one that fails
            becomes `*.failed`, see above
        camera_url: a camera that sends JPEG or MJPEG: its newest frame is predicted; without user and password, see
            [cameras](cameras.md)
        camera_s: seconds between two frames that are predicted, at least
        camera_timeout_s: within which a camera answers, and a frame arrives whole
        camera_user: who logs in to it, by digest or basic
        camera_password: the password; other components of nucleus lite can read it here
        camera_password_file: a file on the device with the password, in place of that
        camera_certificates: a file of certificates to trust for https, in place of the system's
        result_topic: where the results of files go, in place of the response topic; `{stage}` stands for the stage; the
            recipe must grant the topic
        result_format: form of those results; `edge-manager`: timestamp, inference-type, inference-description,
            inference-results [{Label, Score}], of an object also its Box
    """

    name: str
    # It becomes a folder's name: nothing may lead out of the work folder.
    component: str = setting("component", text("a component's name", COMPONENT))
    request_topic: str = setting("requestTopic", topic())
    response_topic: str = setting("responseTopic", topic())
    local: bool = setting("local", FLAG, True)
    results: str = setting("results", choice(*RESULTS), "cloud")
    top_k: int = setting("topK", whole(1, 100), 3)
    queue_size: int = setting("queueSize", whole(1, 10_000), 64)
    max_request_bytes: int = setting("maxRequestBytes", whole(KIBIBYTE, 16 * MEBIBYTE), MQTT_BYTES)
    model_wait_s: int = setting("modelWaitSeconds", whole(0, 300), 10)
    threads: int = setting("threads", whole(0, 64), 1)
    parallel: int = setting("parallel", whole(0, 64), 0)
    batch: int = setting("batch", whole(1, 64), 1)
    accelerator: str = setting("accelerator", choice(*ACCELERATORS), "cpu")
    threshold: float = setting("threshold", _SHARE, 0.0)
    approved: str = setting(
        "approvedVersion", text("a version, none or nothing", re.compile(r"[0-9A-Za-z.+-]{0,64}")), ""
    )
    candidate_mb: int = setting("candidateMegabytes", whole(0, 1 << 20), 0)
    interval_s: float = setting("InferenceInterval", number(0, 365 * DAY_S), 3600.0)
    capture_share: float = setting("captureShare", _SHARE, 0.0)
    capture_below: float = setting("captureBelow", _SHARE, 0.0)
    image_name: str = setting("ImageName", _PATH, "")
    image_directory: str = setting("ImageDirectory", _PATH, "")
    watch_directory: str = setting("WatchDirectory", _PATH, "")
    camera_url: str = setting("cameraUrl", ADDRESS, "")
    camera_s: float = setting("cameraSeconds", number(0.02, DAY_S), 1.0)
    camera_timeout_s: float = setting("cameraTimeoutSeconds", number(1, 60), 5.0)
    camera_user: str = setting("cameraUser", _USER, "")
    camera_password: Secret = setting(  # noqa: RUF009 - a field, as the others
        "cameraPassword", SECRET, NO_SECRET
    )
    camera_password_file: str = setting("cameraPasswordFile", _PATH, "")
    camera_certificates: str = setting("cameraCertificates", _PATH, "")
    result_topic: str = setting("PublishResultsOnTopic", topic(empty=True), "")
    result_format: str = setting("resultFormat", choice(*FORMATS), OWN)

    @property
    def camera(self) -> Source | None:
        """Where frames come from; None without a camera."""
        if not self.camera_url:
            return None
        return Source(
            self.camera_url,
            self.camera_user,
            self.camera_password,
            self.camera_password_file,
            self.camera_certificates,
            self.camera_s,
            self.camera_timeout_s,
        )

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where requests come from."""
        return (Side.LOCAL, Side.CLOUD) if self.local else (Side.CLOUD,)

    @property
    def result_sides(self) -> tuple[Side, ...]:
        """Where results of files go."""
        return (Side.CLOUD, Side.LOCAL) if self.results == "both" else (Side(self.results),)


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What concerns the component as a whole.

    Attributes:
        heartbeat_topic: where the heartbeat goes; none without
        heartbeat_s: seconds between two heartbeats
        capture_bucket: S3 bucket that takes captures; none without
        capture_bytes: disk that captures, also those of the agent's clients, may take until they are uploaded; the
            oldest go first
    """

    heartbeat_topic: str = setting("heartbeatTopic", topic(empty=True), "")
    heartbeat_s: float = setting("heartbeatSeconds", number(1, DAY_S), 60.0)
    capture_bucket: str = setting("captureBucket", _PATH, "")
    capture_bytes: int = setting("captureBytes", whole(MEBIBYTE, 1 << 40), 64 * MEBIBYTE)


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """How the agent serves. Paths that are not absolute lie in the component's work folder.

    Attributes:
        enabled: whether it is served; may change at run time
        socket: Unix socket to listen on
        max_models: models that clients may load
        max_tensor_bytes: the largest tensor, in a message or in shared memory
        pending_captures: captures that wait to be written
    """

    enabled: bool = setting("enabled", FLAG, True)
    socket: str = setting("socket", path(SOCKET_BYTES, empty=False), "agent.sock")
    max_models: int = setting("maxModels", whole(1, 64), 8)
    max_tensor_bytes: int = setting("maxTensorBytes", whole(KIBIBYTE, 256 * MEBIBYTE), 32 * MEBIBYTE)
    pending_captures: int = setting("pendingCaptures", whole(1, 1000), 16)


#: Every key of a model.
KEYS = frozenset(each.key for each in known(ModelSettings).values())


def parse(value: object) -> dict[str, ModelSettings]:
    """Check a configuration.

    Args:
        value: What the device holds: `{"models": {name: {...}}}`, see docs/workloads.md, and `eachModel`: keys of every
            model that does not say them itself, with `{model}` for its name and `{Model}` for that in capitals and
            without dashes; other keys are not this function's business.

    Returns:
        Settings by model name, complete with defaults.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    models = value.get("models") if isinstance(value, Mapping) else None
    if not isinstance(models, Mapping):
        raise ConfigurationError(f"models must be an object, got {shown(models)}")
    mistakes: list[str] = []
    each = value.get("eachModel", {}) if isinstance(value, Mapping) else {}
    if not isinstance(each, Mapping):
        mistakes.append(f"eachModel must be an object, got {shown(each)}")
        each = {}
    settings = {str(name): _model(str(name), entry, mistakes, each) for name, entry in models.items()}
    if not mistakes:
        _check_topics(settings, mistakes)
    accepted(mistakes)
    return settings


def _model(name: str, entry: object, mistakes: list[str], each: Mapping[str, object]) -> ModelSettings:
    where = f"models.{name}"
    if not NAME.fullmatch(name):
        mistakes.append(f"{where}: a name must be letters, digits, '_' and '-', at most 63, got {shown(name)}")
    if not isinstance(entry, Mapping):
        mistakes.append(f"{where} must be an object, got {shown(entry)}")
        entry = {}
    entry = {**{key: _named(text_, name) for key, text_ in each.items()}, **entry}
    if not entry.get("PublishResultsOnTopic"):
        entry = {key: value for key, value in entry.items() if key != "PublishResultsOnTopic"}
    settings = read(ModelSettings, entry, mistakes, f"{where}.", name=name)
    if not settings.result_topic:
        settings = replace(settings, result_topic=settings.response_topic)
    return settings


def _named(value: object, name: str) -> object:
    """A value of `eachModel` for one model."""
    if not isinstance(value, str):
        return value
    capitals = "".join(part.capitalize() for part in name.split("-"))
    return value.replace("{model}", name).replace("{Model}", capitals)


def _check_topics(settings: Mapping[str, ModelSettings], mistakes: list[str]) -> None:
    owners: dict[str, str] = {}
    for model in settings.values():
        other = owners.setdefault(model.request_topic, model.name)
        if other != model.name:
            mistakes.append(f"models.{model.name}.requestTopic must be its own, got that of models.{other}")
    for model in settings.values():
        for key, topic_ in (("responseTopic", model.response_topic), ("PublishResultsOnTopic", model.result_topic)):
            if topic_ in owners:
                # The component would answer its own answers, for ever.
                mistakes.append(
                    f"models.{model.name}.{key} must not be a request topic, got that of models.{owners[topic_]}"
                )


def parse_service(value: object) -> ServiceSettings:
    """Check the keys of a configuration that concern the component as a whole.

    Args:
        value: The whole configuration.

    Returns:
        The settings, complete with defaults.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    mistakes: list[str] = []
    settings = read(ServiceSettings, value if isinstance(value, Mapping) else {}, mistakes)
    accepted(mistakes)
    return settings


def parse_agent(value: object) -> AgentSettings | None:
    """Check a configuration's `agent`.

    Args:
        value: The whole configuration.

    Returns:
        The settings; None without `agent`, or where it is not enabled.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    agent = value.get("agent") if isinstance(value, Mapping) else None
    if agent is None:
        return None
    if not isinstance(agent, Mapping):
        raise ConfigurationError(f"agent must be an object, got {shown(agent)}")
    keys = {each.key for each in known(AgentSettings).values()}
    mistakes = [f"agent.{key} is unknown" for key in sorted(set(map(str, agent)) - keys)]
    settings = read(AgentSettings, agent, mistakes, "agent.")
    accepted(mistakes)
    return settings if settings.enabled else None
