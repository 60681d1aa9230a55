"""Three groups of Greengrass V1, as AWS's commands print them, and their functions; the accounts are nobody's."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
_ACCOUNT = "arn:aws:{}:eu-west-1:123456789012:{}"


def function_arn(name: str) -> str:
    """As a function definition names a function: with its alias."""
    return _ACCOUNT.format("lambda", f"function:{name}:live")


def thing_arn(name: str) -> str:
    """As a subscription names a client device."""
    return _ACCOUNT.format("iot", f"thing/{name}")


def _function(name: str, **configuration: Any) -> dict[str, Any]:
    return {"FunctionArn": function_arn(name), "FunctionConfiguration": configuration, "Id": f"id-{name}"}


def _printed(group: dict[str, str], functions: list[dict[str, Any]], ways: list[tuple[str, str, str]]) -> str:
    """What the commands print one after the other, into one file."""
    arn = _ACCOUNT.format("greengrass", "/greengrass/definition/{}/0/versions/1").format
    head = {"CreationTimestamp": "2021-03-04T05:06:07.890Z", "Id": "0", "Version": "1"}
    subscriptions = [
        {"Id": f"way-{number}", "Source": source, "Subject": subject, "Target": target}
        for number, (source, subject, target) in enumerate(ways)
    ]
    parts = {f"{key}DefinitionVersionArn": arn(key) for key, handler in group.items() if not handler}
    documents = [
        {"Arn": arn("groups"), **head, "Definition": parts},
        {"Arn": arn("functions"), **head, "Definition": {"DefaultConfig": {}, "Functions": functions}},
        {"Arn": arn("subscriptions"), **head, "Definition": {"Subscriptions": subscriptions}},
        *(
            {"FunctionName": name, "FunctionArn": function_arn(name).removesuffix(":live"), "Runtime": "python3.7",
             "Handler": handler}
            for name, handler in group.items()
            if "." in handler
        ),
    ]  # fmt: skip
    return "\n".join(json.dumps(document, indent=4) for document in documents) + "\n"


GROUPS = {
    # The walk-through: cloud → function → cloud.
    "digits": _printed(
        {"Core": "", "Function": "", "Subscription": "", "DigitsV1": "gg_ml_predict.function_handler"},
        [_function("DigitsV1", Pinned=True, MemorySize=131072, Timeout=20, EncodingType="json",
                   Environment={"Variables": {"RESULT_TOPIC": "v1/digits/out"}})],
        [("cloud", "v1/digits/in", function_arn("DigitsV1")), (function_arn("DigitsV1"), "v1/digits/out", "cloud")],
    ),
    "iris": _printed(
        {"Core": "", "Function": "", "Logger": "", "Subscription": "", "iris_predict": "predict.function_handler"},
        [_function("iris_predict", Pinned=False, MemorySize=65536, Timeout=30, Environment={
            "Variables": {"OUT": "v1/iris/out"}, "AccessSysfs": True})],
        [("cloud", "v1/iris/in", function_arn("iris_predict")), (function_arn("iris_predict"), "v1/iris/out", "cloud")],
    ),
    # Devices around the core, and functions that hand on to each other.
    "site": _printed(
        {"Core": "", "Device": "", "Function": "", "Resource": "", "Subscription": "", "Gate": "gate.function_handler",
         "Alarm": "alarm.function_handler"},
        [_function("Gate", Pinned=True, Timeout=3, MemorySize=16384),
         _function("Alarm", Pinned=True, Timeout=3, MemorySize=16384, ExecArgs="--loud"),
         {"FunctionArn": "arn:aws:lambda:::function:GGIPDetector:1", "Id": "detector", "FunctionConfiguration": {}}],
        [(thing_arn("sensor-1"), "site/measured", function_arn("Gate")),
         (thing_arn("sensor-2"), "site/measured", function_arn("Gate")),
         (function_arn("Gate"), "site/high", function_arn("Alarm")),
         (function_arn("Alarm"), "site/alarm", "cloud"),
         (function_arn("Alarm"), "site/horn", thing_arn("horn-1")),
         ("cloud", "site/limit", function_arn("Gate")),
         (thing_arn("sensor-1"), "site/+/raw", "cloud"),
         (thing_arn("sensor-1"), "site/near", thing_arn("horn-1")),
         (function_arn("Gone"), "site/gone", "cloud")],
    ),
}  # fmt: skip


def written(folder: Path) -> dict[str, Path]:
    """Write a file for each group."""
    files = {name: folder / f"{name}.json" for name in GROUPS}
    for name, file in files.items():
        file.write_text(GROUPS[name])
    return files
