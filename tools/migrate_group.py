"""Handlers and routes of a Greengrass V1 group, as TOML for the file of a stage.

    python -m tools.migrate_group FILE

FILE holds what these commands of AWS print, one after the other and in any order: `greengrass get-group-version`,
`greengrass get-function-definition-version`, `greengrass get-subscription-definition-version` and, for each function,
`lambda get-function-configuration`, which names its module and its function. The TOML goes to stdout; what is left to
do, and what has no counterpart, to stderr, each with the reason. Exit code 1: FILE cannot be used.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config.model import Model
from config.names import Names
from config.places import FUNCTIONS
from config.routes import CLOUD, DEVICES, Handler, Route, wire

LIMIT_BYTES, LIMIT_DOCUMENTS = 16 << 20, 10_000
_SPACE = re.compile(r"[\ufeff \t\r\n]*")
_FUNCTION_ARN = re.compile(r"arn:[\w-]+:lambda:[\w-]+:\d+:function:([\w-]+)(?::([\w$-]+))?")
_THING_ARN = re.compile(r"arn:[\w-]+:iot:[\w-]*:\d*:thing/([\w:-]+)")
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_SHADOW_SERVICE = "GGShadowService"
#: Definitions of a group that this command has no use for, and what became of them.
_ELSEWHERE = {
    "CoreDefinitionVersionArn": "the core: a device of the stage, by [edge_server] or [fleet] (docs/migration.md)",
    "DeviceDefinitionVersionArn": "the devices around the core: {devices}",
    "LoggerDefinitionVersionArn": "loggers: a component's log lies on the device; AWS has a component for CloudWatch",
    "ConnectorDefinitionVersionArn": "connectors ended with V1: use the component that AWS names as its successor",
    "ResourceDefinitionVersionArn": "resources: there is no container; an ML resource is a model of the stage",
}


class GroupError(Exception):
    """The file cannot be used; the text says where and why."""


@dataclass
class Migration:
    """What became of a group.

    Attributes:
        handlers: Its functions.
        routes: Its subscriptions.
        left_out: What has no counterpart, with the reason.
        to_do: What a person has to do before the stage can be deployed.
    """

    handlers: list[Handler] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)


def read_documents(text: str, name: str) -> list[Mapping[str, Any]]:
    """Read JSON objects that follow each other.

    Raises:
        GroupError: One of them is no JSON object.
    """
    decoder, documents, at = json.JSONDecoder(), list[Mapping[str, Any]](), 0

    def wrong(rule: str) -> GroupError:
        return GroupError(f"{name} line {text.count(chr(10), 0, at) + 1}: {rule}")

    # A match without a copy of what is left: there may be many documents.
    while (at := _end_of_space(text, at)) < len(text):
        if len(documents) == LIMIT_DOCUMENTS:
            raise wrong(f"there must be at most {LIMIT_DOCUMENTS} JSON objects, got more")
        begins = at
        try:
            document, at = decoder.raw_decode(text, at)
            json.dumps(document, ensure_ascii=False).encode()  # half of a pair is no character, in TOML neither
        except (ValueError, RecursionError) as exc:
            at = begins
            raise wrong(f"must be JSON as the commands print it with --output json: {exc}") from exc
        if not isinstance(document, dict):
            at = begins
            raise wrong(f"must be a JSON object, got {type(document).__name__}")
        documents.append(document)
    if not documents:
        raise GroupError(f"{name}: must hold what aws greengrass get-… prints, got nothing")
    return documents


def _end_of_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def migrate(documents: Sequence[Mapping[str, Any]]) -> Migration:
    """Make handlers and routes of a group.

    Args:
        documents: What the commands printed.

    Returns:
        All that has a counterpart, and what has none.

    Raises:
        GroupError: A document is none of those that are known, or the group has no functions.
    """
    made = Migration()
    group: Mapping[str, Any] = {}
    listed: list[Mapping[str, Any]] = []
    subscriptions: list[Mapping[str, Any]] = []
    lambdas: dict[str, Mapping[str, Any]] = {}
    for number, document in enumerate(documents, 1):
        definition = _object(document.get("Definition"))
        if document.get("NextToken"):
            raise GroupError(f"document {number}: is one page of several: repeat the command with --next-token, too")
        if "Handler" in document and "FunctionArn" in document:
            lambdas[_name_of_function(str(document["FunctionArn"]))] = document
        elif "Functions" in definition:
            listed += _objects(definition, "Functions", number)
        elif "Subscriptions" in definition:
            subscriptions += _objects(definition, "Subscriptions", number)
        elif any(str(key).endswith("DefinitionVersionArn") for key in definition):
            group = definition
        elif not set(definition) & {"Cores", "Devices", "Loggers", "Connectors", "Resources"}:
            raise GroupError(
                f"document {number}: must be what get-group-version, get-function-definition-version, "
                f"get-subscription-definition-version or lambda get-function-configuration prints, got an object with "
                f"{', '.join(map(str, document)) or 'nothing'}"
            )
    if not listed:
        raise GroupError("the group's functions are missing: add what get-function-definition-version prints")
    if not subscriptions:
        made.to_do.append("no subscription was given: add what get-subscription-definition-version prints")
    names = _handlers(listed, lambdas, made)
    things = _routes(subscriptions, names, made)
    devices = (
        f"routes name them as {DEVICES}; list the things in [client_devices]: {', '.join(things)}"
        if things
        else "none has a route"
    )
    made.left_out += [text.format(devices=devices) for key, text in _ELSEWHERE.items() if group.get(key)]
    _check(made)
    return made


def _objects(definition: Mapping[str, Any], key: str, number: int) -> list[Mapping[str, Any]]:
    found = definition[key]
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise GroupError(f"document {number}: Definition.{key} must be a list of objects")
    return found


def _name_of_function(arn: str) -> str:
    found = _FUNCTION_ARN.fullmatch(arn)
    return found[1] if found else ""


def _slug(name: str, taken: set[str]) -> str:
    """A handler's name of a function's: lower case, single dashes, at most 30 characters, each component once."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
    slug = re.sub(r"^[^a-z]+", "", slug)[:30].rstrip("-") or "function"
    unique, number = slug, 1
    while (component := Names("stage").model_package(unique)) in taken:
        number += 1
        unique = f"{slug[:27].rstrip('-')}-{number}"
    taken.add(component)
    return unique


def _handlers(
    listed: Sequence[Mapping[str, Any]], lambdas: Mapping[str, Mapping[str, Any]], made: Migration
) -> dict[str, str]:
    """Function's name to handler's name, for those that have a counterpart."""
    names: dict[str, str] = {}
    taken = {Names("stage").model_package(side) for side in (CLOUD, DEVICES)}
    for each in listed:
        arn = str(each.get("FunctionArn", ""))
        function = _name_of_function(arn)
        if not function or function in names:
            reason = "is listed twice" if function else "is no Lambda function of one's own"
            made.left_out.append(f"function {arn or each.get('Id')}: {reason}")
            continue
        about = _object(each.get("FunctionConfiguration"))
        code = lambdas.get(function, {})
        runtime = str(about.get("FunctionRuntimeOverride") or code.get("Runtime") or "python")
        if not runtime.startswith("python"):
            made.left_out.append(
                f"function {function}: runs on {runtime}; only Python is run unmodified, write it anew"
            )
            continue
        name = _slug(function, taken)
        try:
            made.handlers.append(_handler(name, about, code, made))
        except ValidationError as exc:
            made.left_out.append(f"function {function}: {_said(exc)}")
            continue
        names[function] = name
    return names


def _said(error: ValidationError) -> str:
    rules = (
        f"{'.'.join(map(str, each['loc']))}: {each['msg'].removeprefix('Value error, ')}" for each in error.errors()
    )
    return "; ".join(rules)


def _handler(name: str, about: Mapping[str, Any], code: Mapping[str, Any], made: Migration) -> Handler:
    environment = _object(about.get("Environment"))
    entry = str(code.get("Handler") or "")
    if not _ENTRY.fullmatch(entry):
        # V1's own samples are called like this.
        entry = "function.function_handler"
        made.to_do.append(
            f"{name}: module and function are not known, {entry} is a guess: add what aws lambda "
            "get-function-configuration prints, or write it into handler"
        )
    if not (FUNCTIONS / name).is_dir():
        made.to_do.append(f"{name}: put the function's code into edge_assets/handlers/functions/{name}")
    for key, what in (
        ("ResourceAccessPolicies", "resources of its container: use the component's user and its groups"),
        ("Execution", "its own isolation or user: a component runs without a container, as the nucleus' user"),
        ("AccessSysfs", "access to /sys: there is no container that keeps it away"),
    ):
        if environment.get(key):
            made.left_out.append(f"{name}: {what}")
    if about.get("ExecArgs"):
        made.left_out.append(f"{name}: ExecArgs {str(about['ExecArgs'])[:60]!r}: a function gets no arguments")
    values: dict[str, Any] = {
        "name": name,
        "folder": name,
        "handler": entry,
        "pinned": bool(about.get("Pinned")),
        "encoding": about.get("EncodingType") or "json",
        "environment": {str(key): str(value) for key, value in _object(environment.get("Variables")).items()},
    }
    # V1 counts memory in kilobytes.
    for key, given, unit, largest in (("timeout_s", "Timeout", 1, 3600), ("memory_mb", "MemorySize", 1024, 65_536)):
        value = about.get(given)
        if isinstance(value, int) and not isinstance(value, bool):
            values[key] = max(round(min(value, largest * unit) / unit), 1)
            if value > largest * unit:
                made.to_do.append(f"{name}: {given} {value} becomes {key} = {largest}, the largest that there is")
    return Handler(**values)


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _routes(subscriptions: Sequence[Mapping[str, Any]], names: Mapping[str, str], made: Migration) -> list[str]:
    """Make the routes; returns the things of client devices that they name."""
    things: dict[str, None] = {}
    for each in subscriptions:
        source, topic, target = (str(each.get(key, "")) for key in ("Source", "Subject", "Target"))
        what = f"subscription {source} → {target} on {topic}"
        sides = []
        for side in (source, target):
            thing = _THING_ARN.fullmatch(side)
            function = names.get(_name_of_function(side))
            if side in (CLOUD, _SHADOW_SERVICE):
                sides.append(CLOUD)
            elif thing:
                things[thing[1]] = None
                sides.append(DEVICES)
            elif function:
                sides.append(function)
        if len(sides) < 2:
            made.left_out.append(f"{what}: one side is a connector, or a function that has no counterpart")
        elif re.search(r"[+#]", topic):
            made.left_out.append(f"{what}: has a wildcard: write a route for each topic that it stood for")
        elif sides[0] == sides[1]:
            made.left_out.append(f"{what}: goes from {sides[0]} to {sides[0]}: their broker passes that on by itself")
        else:
            try:
                made.routes.append(Route(source=sides[0], topic=topic, target=sides[1]))
            except ValidationError as exc:
                made.left_out.append(f"{what}: {_said(exc)}")
            if _SHADOW_SERVICE in (source, target):
                made.to_do.append(f"{what}: the shadow is now the cloud's; the device may use its own thing's alone")
    made.routes = list({(each.source, each.topic, each.target): each for each in made.routes}.values())
    return list(things)


def _check(made: Migration) -> None:
    """Say what synth would say of the routes; a stage of one's own has models, too, whose topics these are not."""
    try:
        wire(Names("stage"), [Model(folder="model")], made.handlers, made.routes, lite=False)
    except ValueError as exc:
        made.to_do += str(exc).splitlines()


def as_toml(made: Migration) -> str:
    """Write handlers and routes as tables of a stage's file; what is a default is left out."""
    lines: list[str] = []
    for handler in made.handlers:
        lines += ["[[handlers]]", *_fields(handler.model_dump(exclude_defaults=True)), ""]
    for route in made.routes:
        lines += ["[[routes]]", *_fields(route.model_dump(exclude_defaults=True)), ""]
    return "\n".join(lines)


def _fields(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(each)}" for key, each in value.items()) + " }"
    # JSON's texts, numbers and truth values are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read a group's file and print what becomes of it.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 with the reason on stderr.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.migrate_group",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what the commands print; - for stdin")
    options = parser.parse_args(arguments)
    try:
        made = migrate(read_documents(_text(options.file), options.file.name))
    except GroupError as exc:
        print(exc, file=sys.stderr)
        return 1
    print(as_toml(made), end="")
    for title, lines in (("to do", made.to_do), ("no counterpart", made.left_out)):
        for line in lines:
            print(f"{title}: {line}", file=sys.stderr)
    return 0


def _text(file: Path) -> str:
    try:
        with nullcontext(sys.stdin.buffer) if file == Path("-") else file.open("rb") as stream:
            content = stream.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise GroupError(f"{file}: must have at most {LIMIT_BYTES} bytes, got more")
        return content.decode("utf-8-sig")
    except OSError as exc:
        raise GroupError(f"{file}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise GroupError(f"{file}: must be UTF-8: {exc}") from exc


if __name__ == "__main__":
    sys.exit(main())
