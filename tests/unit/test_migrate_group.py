"""V1 groups, as AWS's commands print them, become handlers and routes of a stage."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import validate

from config.loader import load_stage
from config.places import PROJECT as ROOT
from config.routes import HandlerTopics
from tests.edge_handlers.v1_groups import GROUPS, function_arn, written
from tools import migrate_group
from tools.migrate_group import GroupError, Migration, as_toml, migrate, read_documents

OPERATIONS = {
    "Subscriptions": "GetSubscriptionDefinitionVersion",
    "Functions": "GetFunctionDefinitionVersion",
    "FunctionDefinitionVersionArn": "GetGroupVersion",
}


def migrated(name: str) -> Migration:
    return migrate(read_documents(GROUPS[name], f"{name}.json"))


def stage(folder: Path, *groups: str) -> Any:
    tables = "\n".join(as_toml(migrated(group)) for group in groups)
    (folder / "lab.toml").write_text(f'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n\n{tables}')
    return load_stage("lab", folder)


@pytest.mark.parametrize("name", GROUPS)
def test_the_groups_of_these_tests_are_what_the_service_answers(name: str) -> None:
    service = botocore.session.get_session().get_service_model("greengrass")
    checked = 0
    for document in read_documents(GROUPS[name], name):
        for key, operation in OPERATIONS.items():
            if key in document.get("Definition", {}):
                shape = service.operation_model(operation).output_shape
                report = validate.ParamValidator().validate(document, shape)
                assert not report.has_errors(), report.generate_report()
                assert set(document["Definition"]) <= set(shape.members["Definition"].members)
                checked += 1
    assert checked == 3


def test_cloud_function_cloud_becomes_a_handler_with_two_routes() -> None:
    assert as_toml(migrated("digits")) == (
        '[[handlers]]\nname = "digits-v1"\nfolder = "digits-v1"\nhandler = "gg_ml_predict.function_handler"\n'
        'pinned = true\nenvironment = { "RESULT_TOPIC" = "v1/digits/out" }\ntimeout_s = 20\n\n'
        '[[routes]]\nsource = "cloud"\ntopic = "v1/digits/in"\ntarget = "digits-v1"\n\n'
        '[[routes]]\nsource = "digits-v1"\ntopic = "v1/digits/out"\ntarget = "cloud"\n'
    )


def test_devices_and_chains_of_functions_become_routes_and_the_rest_is_told() -> None:
    made = migrated("site")

    assert [(each.source, each.topic, each.target) for each in made.routes] == [
        ("devices", "site/measured", "gate"),
        ("gate", "site/high", "alarm"),
        ("alarm", "site/alarm", "cloud"),
        ("alarm", "site/horn", "devices"),
        ("cloud", "site/limit", "gate"),
    ]
    told = "\n".join(made.left_out)
    for reason in (
        "function arn:aws:lambda:::function:GGIPDetector:1: is no Lambda function of one's own",
        "alarm: ExecArgs '--loud': a function gets no arguments",
        "on site/+/raw: has a wildcard: write a route for each topic that it stood for",
        "on site/near: goes from devices to devices: their broker passes that on by itself",
        "on site/gone: one side is a connector, or a function that has no counterpart",
        "list the things in [client_devices]: sensor-1, sensor-2, horn-1",
        "resources: there is no container",
    ):
        assert reason in told
    assert made.to_do == [
        "gate: put the function's code into edge_assets/handlers/functions/gate",
        "alarm: put the function's code into edge_assets/handlers/functions/alarm",
    ]


def test_a_stage_takes_all_three_and_allows_what_their_subscriptions_said(tmp_path: Path) -> None:
    made = stage(tmp_path, *GROUPS)

    assert made.wiring.handlers == {
        "digits-v1": HandlerTopics(("v1/digits/in",), ("v1/digits/out",)),
        "iris-predict": HandlerTopics(("v1/iris/in",), ("v1/iris/out",)),
        "gate": HandlerTopics(("site/limit",), (), ("site/measured",), ("site/high",)),
        "alarm": HandlerTopics((), ("site/alarm",), ("site/high",), ("site/horn",)),
    }
    assert made.wiring.bridged == (("site/measured", "devices", "gate"), ("site/horn", "alarm", "devices"))
    iris = next(each for each in made.handlers if each.name == "iris-predict")
    assert (iris.pinned, iris.memory_mb, iris.timeout_s, iris.encoding) == (False, 64, 30, "json")


def group(functions: Any, subscriptions: Any = ()) -> list[dict[str, Any]]:
    return [{"Definition": {"Functions": functions}}, {"Definition": {"Subscriptions": list(subscriptions)}}]


def function(name: str = "F", **configuration: Any) -> dict[str, Any]:
    return {"FunctionArn": function_arn(name), "FunctionConfiguration": configuration}


def test_what_v1_allowed_beyond_our_bounds_is_told() -> None:
    made = migrate(
        group(
            [
                function("Big", Timeout=2147483647, MemorySize=1 << 40, Environment={"Variables": {"A": 'x"\\\n\x7f'}}),
                function("Java", FunctionRuntimeOverride="java8"),
                function("Bad", EncodingType="xml"),
                function("Odd", Environment={"Variables": {"a-b": "1"}}),
                function("Big"),
                function("1_Weird__Name" + "x" * 40),
                function("_"),
                function("cloud"),
            ],
            [
                {"Source": "cloud", "Subject": "a b", "Target": function_arn("Big")},
                {"Source": function_arn("Big"), "Subject": "$aws/things/t/shadow/update", "Target": "GGShadowService"},
                {"Source": "cloud", "Subject": "loop", "Target": function_arn("Big")},
                {"Source": function_arn("Big"), "Subject": "loop", "Target": "cloud"},
                {},
            ],
        )
    )

    assert [each.name for each in made.handlers] == ["big", "weird-name" + "x" * 20, "function", "cloud-2"]
    assert (made.handlers[0].timeout_s, made.handlers[0].memory_mb) == (3600, 65_536)
    assert tomllib.loads(as_toml(made))["handlers"][0]["environment"] == {"A": 'x"\\\n\x7f'}
    told = "\n".join(made.left_out + made.to_do)
    for reason in (
        "Timeout 2147483647 becomes timeout_s = 3600",
        "function Java: runs on java8; only Python is run unmodified",
        "function Bad: encoding: ",
        "function Odd: environment.a-b.[key]: ",
        f"function {function_arn('Big')}: is listed twice",
        "on a b: topic: a topic must be exact",
        "the shadow is now the cloud's",
        "a message on loop would go round",
        "function.function_handler is a guess",
    ):
        assert reason in told, told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "x.json: must hold what aws greengrass get-… prints, got nothing"),
        ("{}\n{", "x.json line 2: must be JSON as the commands print it"),
        ("[1]", "x.json line 1: must be a JSON object, got list"),
        ("{}" + "[" * 100_000, "x.json line 1: must be JSON"),
        ("{}" * 9_999 + "\n{}{}", "x.json line 2: there must be at most 10000 JSON objects, got more"),
        ('{"a": 1' + "0" * 5000 + "}", "x.json line 1: must be JSON"),
        ('{}\n{"a": "\\ud800"}', "x.json line 2: must be JSON as the commands print it"),
        ('{"Groups": []}', "document 1: must be what get-group-version"),
        ('{"Definition": {"Functions": {}}}', "document 1: Definition.Functions must be a list of objects"),
        ('{"Definition": {"Functions": []}, "NextToken": "x"}', "document 1: is one page of several"),
        ('{"Definition": {"Subscriptions": []}}', "the group's functions are missing"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(GroupError) as caught:
        migrate(read_documents(text, "x.json"))

    assert str(caught.value).startswith(told)


def test_functions_whose_names_would_be_one_component_become_several(tmp_path: Path) -> None:
    long = "a-function-with-a-long-name-x"  # what is cut off for a number ends with a dash
    arns = [
        f"arn:aws:lambda:eu-west-1:111122223333:function:{name}" for name in ("b-1", "b1", "Cloud", long, long + "_")
    ]
    listed = [{"FunctionArn": arn, "FunctionConfiguration": {"Pinned": True}} for arn in arns]

    made = migrate([{"Definition": {"Functions": listed}}])
    (tmp_path / "lab.toml").write_text(f'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n\n{as_toml(made)}')

    names = [each.name for each in load_stage("lab", tmp_path).handlers]
    assert names == ["b-1", "b1-2", "cloud-2", "a-function-with-a-long-name-x", "a-function-with-a-long-name-2"]


def test_a_number_beyond_every_bound_becomes_the_largest() -> None:
    arn = "arn:aws:lambda:eu-west-1:111122223333:function:gate"
    function = {"FunctionArn": arn, "FunctionConfiguration": {"Timeout": 10**400, "MemorySize": 10**400}}

    made = migrate([{"Definition": {"Functions": [function]}}])

    (handler,) = made.handlers
    assert (handler.timeout_s, handler.memory_mb) == (3600, 65_536)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate_group, "LIMIT_BYTES", 10)
    (tmp_path / "a").write_bytes(b" " * 11)

    assert migrate_group.main([str(tmp_path / "a")]) == 1
    assert migrate_group.main(["/dev/zero"]) == 1
    assert migrate_group.main([str(tmp_path / "none")]) == 1


def test_the_command_prints_toml_alone_to_stdout(tmp_path: Path) -> None:
    files = written(tmp_path)

    run = subprocess.run(
        [sys.executable, "-m", "tools.migrate_group", str(files["site"])],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert [each["name"] for each in tomllib.loads(run.stdout)["handlers"]] == ["gate", "alarm"]
    assert "no counterpart: " in run.stderr
    assert json.dumps("gate") in run.stdout
