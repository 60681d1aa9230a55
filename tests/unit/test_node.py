import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from config.places import PROJECT as ROOT
from edge_constructs.edge_assets import COMPONENT, bare_python, shipped_code
from tools.node import import_beside_node, keep_compiled, node_binary, settle_jsii


def test_jsii_unpacks_in_the_environment_not_in_the_home_folder() -> None:
    settings: dict[str, str] = {}

    settle_jsii(settings)

    assert Path(settings["JSII_RUNTIME_PACKAGE_CACHE_ROOT"]).parent == Path(sys.prefix)
    assert settings["JSII_NODE"] == str(node_binary())


def test_what_the_user_has_set_for_jsii_stays() -> None:
    settings = {"JSII_NODE": "/usr/bin/node", "JSII_RUNTIME_PACKAGE_CACHE_ROOT": "/var/cache/jsii"}

    settle_jsii(settings)

    assert settings == {"JSII_NODE": "/usr/bin/node", "JSII_RUNTIME_PACKAGE_CACHE_ROOT": "/var/cache/jsii"}


def test_an_environment_that_cannot_be_written_leaves_the_place_to_jsii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != sys.prefix)
    settings: dict[str, str] = {}

    settle_jsii(settings)

    assert set(settings) == {"JSII_NODE"}


def node(environment: Mapping[str, str], program: str) -> str:
    """What a program in Node says."""
    done = subprocess.run(
        [node_binary(), "-e", program], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


MADE = 'const make = (name) => require("fs").mkdtempSync(require("os").tmpdir() + "/" + name);'


def test_node_keeps_what_it_compiles_below_a_folder_that_has_the_same_name_each_time(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    settings = {"NODE_OPTIONS": "--no-warnings", "TMPDIR": str(tmp_path)}
    place = tmp_path / "a folder" / "kept"

    keep_compiled(settings, place)
    loaded = 'fs = require("fs"); dir = make("jsii-kernel-"); fs.writeFileSync(dir + "/m.js", "module.exports = 1");'
    said = node(settings, f'{MADE}{loaded} require(dir + "/m.js"); console.log(dir, process.execArgv)')

    assert said.startswith(str(place / "jsii-kernel-kept"))
    assert settings["NODE_OPTIONS"].startswith("--no-warnings --require ")
    assert [file for file in (place / "compiled").rglob("*") if file.is_file()]


def test_a_folder_that_is_in_use_or_for_another_purpose_has_another_name(tmp_path: Path) -> None:
    settings = {"TMPDIR": str(tmp_path)}

    keep_compiled(settings, tmp_path / "kept")
    first, *others = node(
        settings, f'{MADE}["jsii-kernel-", "jsii-kernel-", "other-"].map(make).forEach((at) => console.log(at))'
    ).split()

    assert first == str(tmp_path / "kept" / "jsii-kernel-kept")
    assert [Path(each).parent for each in others] == [tmp_path, tmp_path]


def test_what_a_killed_synth_has_left_makes_room(tmp_path: Path) -> None:
    (tmp_path / "kept" / "jsii-kernel-kept" / "node_modules").mkdir(parents=True)
    settings: dict[str, str] = {}

    keep_compiled(settings, tmp_path / "kept")

    assert not Path(settings["EDGEWRIGHT_KEPT_KERNEL"]).exists()


def test_a_synth_beside_another_one_keeps_nothing(tmp_path: Path) -> None:
    keep_compiled({}, tmp_path / "kept")
    program = f"from tools.node import *; s = {{}}; keep_compiled(s, Path({str(tmp_path / 'kept')!r})); print(s)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "{}\n"


def test_a_place_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    settings: dict[str, str] = {}

    keep_compiled(settings, tmp_path / "kept")

    assert settings == {}


def test_jsii_calls_its_folder_as_it_is_looked_for() -> None:
    spec = importlib.util.find_spec("jsii._embedded.jsii")
    assert spec
    assert spec.origin

    program = Path(spec.origin).with_name("lib__program.js").read_text(encoding="utf-8")

    assert '"jsii-kernel-"' in program
    assert "mkdtempSync(" in program


def synth(folder: Path, finder: str) -> subprocess.CompletedProcess[str]:
    """Run the app with something in front of all that finds modules."""
    (folder / "sitecustomize.py").write_text(
        "import sys, threading\n"
        "class First:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        {finder}\n"
        "sys.meta_path.insert(0, First())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder), "CDK_OUTDIR": str(folder / "cdk.out")}
    return subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_what_a_synth_needs_besides_the_cdk_is_imported_while_node_starts(tmp_path: Path) -> None:
    seen = (
        'if name in {"pydantic", "onnxruntime", "aws_cdk.aws_sagemaker"}:\n'
        '            sys.stderr.write(f"{name} by {threading.current_thread().name}\\n")\n'
        "        if name == 'tools.node':\n"
        "            import config.kept_answers, pathlib\n"
        f"            config.kept_answers.FILE = pathlib.Path({str(tmp_path / 'kept.json')!r})"
    )

    first, second = synth(tmp_path, seen), synth(tmp_path, seen)

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert {"pydantic by imports", "onnxruntime by imports"} <= set(first.stderr.splitlines())
    assert "MainThread" not in first.stderr
    # No stage of ours has a device fleet of SageMaker.
    assert "aws_sagemaker" not in first.stderr
    # What it has loaded is known from now on.
    assert "pydantic by imports" in second.stderr
    assert "onnxruntime" not in second.stderr


def test_what_ships_is_read_while_node_starts() -> None:
    bare_python.cache_clear()

    import_beside_node()
    (thread,) = [each for each in threading.enumerate() if each.name == "imports"]
    thread.join(120)
    read = bare_python.cache_info().misses
    shipped_code(COMPONENT)

    assert bare_python.cache_info().misses == read > 0


def test_an_interrupt_that_leaves_a_module_locked_ends_the_program_all_the_same(tmp_path: Path) -> None:
    # As an interrupt between the lock's taking and its block does, so that the thread waits for it without an end.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class First:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'tools.node':\n"
        "            First.lock = importlib._bootstrap._get_module_lock('pydantic')\n"
        "            First.lock.acquire()\n"
        "        if name == 'aws_cdk':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, First())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "app.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)

    assert (done.stderr, done.returncode) == ("interrupted\n", -signal.SIGINT)


def test_what_fails_while_node_starts_is_told_once_and_in_words(tmp_path: Path) -> None:
    done = synth(tmp_path, 'if name == "pydantic": raise ModuleNotFoundError("gone", name=name)')

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "must have pydantic, it has not" in done.stderr
