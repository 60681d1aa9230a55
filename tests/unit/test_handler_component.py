"""V1 functions: what is declared, archived and allowed."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from config.loader import ConfigurationError, load_stage
from config.model import Model
from config.names import Names
from config.places import FUNCTIONS
from config.routes import Handler, wire
from edge_constructs.component_library import fill_recipe
from edge_constructs.edge_assets import (
    HANDLER_RECIPE,
    Archive,
    MissingAssetError,
    dependencies_archive,
    handler_archive,
)
from edge_constructs.handler_check import (
    ADVICE,
    HandlerDeclarationError,
    check_function,
    check_imports,
    provided_modules,
)
from edge_constructs.handler_component import check_access, recipe_values
from edge_constructs.reproducible_zip import sha256_of, write_zip

DIGITS = FUNCTIONS / "digits"


def handler(**changes: Any) -> Handler:
    values: dict[str, Any] = {"name": "d", "folder": "digits", "handler": "gg_ml_predict.function_handler", **changes}
    return Handler(**values)


def recipe(**changes: Any) -> dict[str, Any]:
    made = handler(**changes)
    topics = wire(Names("lab"), [Model(folder="m")], [made], [], lite=False).handlers["d"]
    values = recipe_values("c", made, topics, "r")
    filled = fill_recipe(HANDLER_RECIPE, {**values, "VERSION": "1.0.0", "ARTIFACT_URI": "a", "DEPENDENCIES_URI": "d"})
    content: dict[str, Any] = json.loads(filled)
    return content


def test_the_archive_is_reproducible_and_complete(tmp_path: Path) -> None:
    first = handler_archive("d", DIGITS, tmp_path / "a")
    second = handler_archive("d", DIGITS, tmp_path / "b")
    assert first.sha256 == second.sha256

    with zipfile.ZipFile(first.file) as archive:
        archive.extractall(tmp_path / "device")

    # All that the component imports on the device came along.
    code = "import v1_handler.__main__, v1_handler.child, edge_component.greengrass_ipc"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "device", capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stderr == ""
    assert not (tmp_path / "device" / "edge_inference").exists()
    assert (tmp_path / "device" / "function" / "model.onnx").read_bytes() == (DIGITS / "model.onnx").read_bytes()


def test_a_function_without_a_lock_has_no_packages(tmp_path: Path) -> None:
    archive = dependencies_archive("d", DIGITS, "3.11", "x86_64", tmp_path)

    with zipfile.ZipFile(archive.file) as members:
        assert members.namelist() == ["requirements.lock"]


def test_packages_must_be_bundled_from_the_functions_lock(tmp_path: Path) -> None:
    function, bundles = tmp_path / "f", tmp_path / "bundles"
    function.mkdir()
    (function / "requirements.lock").write_text("a==1 --hash=sha256:00\n")
    made = bundles / "f-cp311-x86_64.zip"

    for lock in (None, b"a==2"):
        if lock:
            write_zip(made, {"requirements.lock": lock})
        with pytest.raises(MissingAssetError, match=r"packages of the function f .* run make setup"):
            dependencies_archive("d", function, "3.11", "x86_64", tmp_path / "out", bundles)
    digest = write_zip(made, {"requirements.lock": function / "requirements.lock", "dependencies/a.py": b""})

    for _ in range(2):  # a second synth finds the file of the first
        archive = dependencies_archive("d", function, "3.11", "x86_64", tmp_path / "out", bundles)
    assert archive.sha256 == digest


@pytest.mark.parametrize("changes", [{"folder": "nothing"}, {"handler": "other.function"}])
def test_a_function_that_is_not_there_is_named(changes: dict[str, str]) -> None:
    declared = handler(**changes)

    with pytest.raises(
        HandlerDeclarationError, match=rf"handlers\.d: .*functions/{declared.folder}: {declared.handler} must be there"
    ):
        check_function(declared, FUNCTIONS / declared.folder, "3.11")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"f.py": b"print 'two'\n"}, "f.py must be Python 3: .* in line 1"),
        ({"f.py": b"x = " + b"1+" * 50_000 + b"1\n"}, "f.py must be Python 3: maximum recursion depth exceeded"),
        ({"f.py": b"x = " + b"-" * 100_000 + b"1\n"}, "f.py must be Python 3: nested too deeply"),
        ({"f.py": b"def other(event, context): pass\n"}, "f.py must define handler, got the functions other"),
        (
            {"requirements.txt": b"greengrasssdk\nnumpy>=1.0 # x\n-i y\n"},
            "asks for numpy, and without a requirements.lock",
        ),
        (
            {"numpy/core.cpython-37m-x86_64-linux-gnu.so": b"", "a/b.cpython-38-x86_64-linux-gnu.so": b""},
            "a/b.cpython-38-x86_64-linux-gnu.so and 1 more must be built for Python 3.11",
        ),
    ],
)
def test_a_function_that_cannot_work_on_the_device_is_refused(
    files: dict[str, bytes], expected: str, tmp_path: Path
) -> None:
    for name, content in {"f.py": b"def handler(event, context): pass\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)

    with pytest.raises(HandlerDeclarationError, match=expected):
        check_function(handler(handler="f.handler"), tmp_path, "3.11")


@pytest.mark.parametrize(
    "code",
    [
        "from other import handler",
        "from other import *",
        "try:\n    handler = make()\nexcept Exception:\n    handler = None",
        "class handler: pass",
        "globals()['handler'] = print",
    ],
)
def test_a_function_may_come_about_in_any_way(code: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(code)
    (tmp_path / "requirements.txt").write_text("# the SDK\ngreengrasssdk==1.6.1\n")
    (tmp_path / "c.cpython-311-x86_64-linux-gnu.so").touch()

    check_function(handler(handler="f.handler"), tmp_path, "3.11")


PROVIDED = ("json", "os", "greengrasssdk", "numpy")


def refused_imports(folder: Path, files: dict[str, str], *, python: str = "3.11", **changes: Any) -> str:
    """What the check says of a function; nothing where it passes."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    try:
        check_imports(handler(handler="f.handler", **changes), folder, python, PROVIDED)
    except HandlerDeclarationError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"f.py": "import json, os\nimport greengrass_machine_learning_sdk as ml\n"},
            r"f\.py line 2 imports greengrass_machine_learning_sdk \(V1's ML connectors ended with it: ask a model",
        ),
        ({"f.py": "from dlr import DLRModel\n"}, "imports dlr .run the model as ONNX with onnxruntime"),
        (
            {"f.py": "def handler(event, context):\n    import cv2\n"},
            r"line 2 imports cv2 .name opencv-python-headless",
        ),
        ({"f.py": "import numpy.linalg, scipy.signal\n"}, r"imports scipy\.signal \(name its package in the lock"),
        (
            {
                "f.py": "import lib.a\n",
                "lib/__init__.py": "",
                "lib/a.py": "from . import b\n",
                "lib/b.py": "import yaml",
            },
            "lib/b",
        ),
        ({"f.py": "from lib import b\n", "lib/b.py": "import urllib2\n"}, r"lib/b\.py line 1 .*urllib\.request"),
        ({"f.py": "try:\n    pass\nexcept ValueError:\n    import queue2\n"}, "line 4 imports queue2"),
        ({"f.py": "import importlib\nm = importlib.import_module('dlr.api')\n"}, r"line 2 imports dlr\.api"),
        ({"f.py": "from importlib import import_module\nm = import_module('dlr')\n"}, "line 2 imports dlr"),
        ({"f.py": "m = __import__('mxnet')\n"}, "line 1 imports mxnet"),
    ],
)
def test_an_import_that_nothing_provides_is_told_with_what_to_do(
    files: dict[str, str], told: str, tmp_path: Path
) -> None:
    text = refused_imports(tmp_path, files)

    assert re.search(told, text), text
    assert text.startswith(
        "handlers.d: edge_assets/handlers/functions/digits: every import must be there for Python 3.11"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"f.py": "try:\n    import simplejson as json\nexcept ImportError:\n    import ujson as json\n"},
        {"f.py": "import sys\nif sys.version_info[0] < 3:\n    import urllib2\n"},
        {"f.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import mypy_boto3_s3\n"},
        {"f.py": "import contextlib\nwith contextlib.suppress(ImportError):\n    import cv2\n"},
        {"f.py": "import lib\n", "lib/__init__.py": "def plot():\n    import matplotlib\n"},
        {"f.py": "import json\n", "training.py": "import torch\n"},
        {"f.py": "import sys\nsys.path.insert(0, 'vendor')\nimport tool\n", "vendor/tool.py": ""},
        {"f.py": "import native\n", "native.cpython-311-x86_64-linux-gnu.so": ""},
        {"f.py": "import space.part\n", "space/part/__init__.py": ""},
        {"f.py": "from .sibling import x\n", "sibling.py": ""},
        {"f.py": "import importlib, sys\nm = importlib.import_module(sys.argv[0])\n"},
        {"f.py": "import importlib\nm = importlib.import_module('.b', 'a')\n"},
        {"f.py": "try:\n    m = __import__('cv2')\nexcept ImportError:\n    m = None\n"},
    ],
)
def test_an_import_that_is_there_or_may_be_missing_is_no_mistake(files: dict[str, str], tmp_path: Path) -> None:
    standard = ("sys", "typing", "contextlib", "importlib")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    check_imports(handler(handler="f.handler"), tmp_path, "3.11", (*PROVIDED, *standard))


def test_what_the_device_brings_is_named_in_the_stage(tmp_path: Path) -> None:
    files = {"f.py": "import picamera2\n"}

    assert "imports picamera2" in refused_imports(tmp_path, files)
    assert refused_imports(tmp_path, files, provided=("picamera2",)) == ""


def test_what_is_provided_is_read_from_shim_lock_runtime_and_python(tmp_path: Path) -> None:
    write_zip(tmp_path / "numpy.whl", {"numpy/__init__.py": b"", "numpy-2.0.dist-info/RECORD": b"", "six.py": b""})
    write_zip(tmp_path / "runtime.zip", {"wheels/numpy.whl": tmp_path / "numpy.whl", "install.sh": b""})
    members = {
        "dependencies/cv2/__init__.py": b"",
        "dependencies/_x.abi3.so": b"",
        "dependencies/a-1.dist-info/METADATA": b"",
    }
    write_zip(tmp_path / "dependencies.zip", members)

    runtime = Archive(tmp_path / "runtime.zip", sha256_of(tmp_path / "runtime.zip"))
    found = {
        python: provided_modules(python, tmp_path / "dependencies.zip", runtime) for python in ("3.11", "3.12", "3.13")
    }

    assert {"json", "greengrasssdk", "greengrass_common", "cv2", "_x", "numpy", "six", "imp", "cgi"} <= found["3.11"]
    assert not {"install", "runtime", "a-1", "boto3"} & found["3.11"]
    assert "imp" not in found["3.12"]
    assert "cgi" in found["3.12"]
    assert "cgi" not in found["3.13"]


def test_the_page_on_migration_has_the_advice_on_imports() -> None:
    page = (FUNCTIONS.parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")

    assert [name for name, advice in ADVICE.items() if f"| `{name}` | {advice} |" not in page] == []


def test_hidden_files_travel_unless_a_tool_left_them(tmp_path: Path) -> None:
    function = tmp_path / "f"
    for name in ("f.py", ".settings.json", "d/.keep", ".git/config", ".DS_Store", "__pycache__/f.pyc"):
        (function / name).parent.mkdir(parents=True, exist_ok=True)
        (function / name).write_text("x")

    archive = handler_archive("f", function, tmp_path / "out")

    with zipfile.ZipFile(archive.file) as content:
        names = {name for name in content.namelist() if name.startswith("function/")}
    assert names == {"function/f.py", "function/.settings.json", "function/d/.keep"}


def test_the_device_may_run_what_lies_beside_a_function_and_gets_credentials_only_where_asked_for() -> None:
    plain, trusted = recipe(), recipe(aws_credentials=True)

    rights = [artifact["Permission"] for artifact in plain["Manifests"][0]["Artifacts"]]
    assert rights == [{"Read": "ALL", "Execute": "ALL"}] * 2
    assert list(plain["ComponentDependencies"]) == ["r"]
    assert list(trusted["ComponentDependencies"]) == ["r", "aws.greengrass.TokenExchangeService"]


@pytest.mark.parametrize("topic", ["a/*", "a?", "a/${iot:thingName}", "{a}", "a b", "$aws/events/x", "a/+", "ü" * 129])
def test_a_topic_that_means_more_than_itself_to_a_policy_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="a topic must be exact"):
        handler(subscribe=(topic,))


def test_a_topic_with_the_devices_name_is_exact_for_each_device_and_for_the_classic_nucleus_only() -> None:
    named = recipe(subscribe=("cmd/{thing}/in",), publish=("dt/{thing}/out", "all/out"))
    plain = recipe(publish=("all/out",))

    configuration = named["ComponentConfiguration"]["DefaultConfiguration"]
    policies = configuration["accessControl"]["aws.greengrass.ipc.mqttproxy"]
    assert configuration["publish"] == policies["c:publications"]["resources"] == ["dt/{iot:thingName}/out", "all/out"]
    assert configuration["subscribe"] == policies["c:events"]["resources"] == ["cmd/{iot:thingName}/in"]
    assert named["Manifests"][0]["Platform"] == {"os": "linux", "runtime": "aws_nucleus_classic"}
    assert plain["Manifests"][0]["Platform"] == {"os": "linux", "runtime": "*"}


@pytest.mark.parametrize("topic", ["a/{thin}/b", "a/{thing", "a/{{thing}}", "x" * 200 + "/{thing}"])
def test_a_variable_that_nobody_fills_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match=r"{thing} in it stands for the device's name"):
        handler(publish=(topic,))


def test_topics_of_v1_are_taken_and_those_of_a_shadow_too() -> None:
    topics = (
        "hello/world",
        "/topic/metering",
        "$aws/things/GG_Light/shadow/update/documents",
        "t/ü",
        "$aws/things/{thing}/shadow/update",
    )

    assert handler(subscribe=topics).subscribe == topics


def test_topics_must_be_in_the_access_control() -> None:
    check_access(recipe(subscribe=("a",), publish=("b",)))
    for key in ("subscribe", "publish"):
        broken = recipe(subscribe=("a",), publish=("b",))
        broken["ComponentConfiguration"]["DefaultConfiguration"][key].append("other")

        with pytest.raises(HandlerDeclarationError, match=f"on each topic of {key}, not on other"):
            check_access(broken)


def test_mistakes_in_a_declaration_are_reported_at_once(tmp_path: Path) -> None:
    text = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n' + (
        '[[handlers]]\nname = "a"\nfolder = "f"\nhandler = "nodot"\nsubscribe = ["a/+", "b/#"]\ntimeout_s = 0\n'
        'environment = { "1X" = "y" }\n'
    )
    (tmp_path / "lab.toml").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", tmp_path)

    assert len(str(caught.value).splitlines()) == 5
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n'
        + '[[handlers]]\nname = "a"\nfolder = "f"\nhandler = "m.f"\n' * 2
    )
    with pytest.raises(ConfigurationError, match="each handler may be listed once, twice there: a"):
        load_stage("lab", tmp_path)
