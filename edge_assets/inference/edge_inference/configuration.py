"""The component's configuration: checked as a whole before any of it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
TOPIC_BYTES = 256
#: The largest message that AWS IoT Core carries.
MQTT_BYTES = 128 * 1024

#: Optional whole numbers: key to default, least and largest value.
NUMBERS = {
    "topK": (3, 1, 100),
    "queueSize": (64, 1, 10_000),
    "maxRequestBytes": (MQTT_BYTES, 1024, 16 * 1024 * 1024),
    "modelWaitSeconds": (10, 0, 300),
}


class ConfigurationError(Exception):
    """A configuration that is not accepted; one line a mistake, each with key, rule and value."""


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
    """

    name: str
    component: str
    request_topic: str
    response_topic: str
    top_k: int
    queue_size: int
    max_request_bytes: int
    model_wait_s: int


def parse(value: object) -> dict[str, ModelSettings]:
    """Check a configuration.

    Args:
        value: What the device holds: `{"models": {name: {"component", "requestTopic", "responseTopic", "topK"?,
            "queueSize"?, "maxRequestBytes"?, "modelWaitSeconds"?}}}`; other keys are not this module's business.

    Returns:
        Settings by model name.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    models = value.get("models") if isinstance(value, Mapping) else None
    if not isinstance(models, Mapping):
        raise ConfigurationError(f"models must be an object, got {_shown(models)}")
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
        mistakes.append(f"{where}: a name must be letters, digits, '_' and '-', at most 63, got {_shown(name)}")
    if not isinstance(entry, Mapping):
        mistakes.append(f"{where} must be an object, got {_shown(entry)}")
        entry = {}
    component = entry.get("component")
    # It becomes a folder's name: nothing may lead out of the work folder.
    if not (isinstance(component, str) and COMPONENT.fullmatch(component)):
        mistakes.append(f"{where}.component must be a component's name, got {_shown(component)}")
    topics = {key: _topic(f"{where}.{key}", entry.get(key), mistakes) for key in ("requestTopic", "responseTopic")}
    numbers = {
        key: _number(f"{where}.{key}", entry.get(key, limits[0]), limits, mistakes) for key, limits in NUMBERS.items()
    }
    return ModelSettings(
        name=name,
        component=str(component),
        request_topic=topics["requestTopic"],
        response_topic=topics["responseTopic"],
        top_k=numbers["topK"],
        queue_size=numbers["queueSize"],
        max_request_bytes=numbers["maxRequestBytes"],
        model_wait_s=numbers["modelWaitSeconds"],
    )


def _topic(where: str, value: object, mistakes: list[str]) -> str:
    if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > TOPIC_BYTES:
        mistakes.append(f"{where} must be a topic of 1 to {TOPIC_BYTES} bytes, got {_shown(value)}")
    elif any(character in value for character in "+#\0"):
        mistakes.append(f"{where} must be an exact topic, without wildcards, got {_shown(value)}")
    return str(value)


def _number(where: str, value: object, limits: tuple[int, int, int], mistakes: list[str]) -> int:
    default, least, largest = limits
    # A device may store every number as a floating-point one.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= largest:
        mistakes.append(f"{where} must be a whole number from {least} to {largest}, got {_shown(value)}")
        return default
    return whole


def _check_topics(settings: Mapping[str, ModelSettings], mistakes: list[str]) -> None:
    owners: dict[str, str] = {}
    for model in settings.values():
        other = owners.setdefault(model.request_topic, model.name)
        if other != model.name:
            mistakes.append(f"models.{model.name}.requestTopic must be its own, got that of models.{other}")
    for model in settings.values():
        if model.response_topic in owners:
            # The component would answer its own answers, for ever.
            mistakes.append(
                f"models.{model.name}.responseTopic must not be a request topic, "
                f"got that of models.{owners[model.response_topic]}"
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
