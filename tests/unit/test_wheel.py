"""What the wheel holds, and an app that is made with it alone."""

import ast
import re
import shutil
import signal
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from packaging.requirements import Requirement
from typer.testing import CliRunner

import edgewright
from config.places import project_folder
from edgewright import cli, scaffold
from tests.app_copy import git
from tests.installed import Installed, beside, with_set_up
from tools.wheel import BELOW, BESIDE, ROOT, WheelError, mover

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return beside(tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="module")
def members(installed: Installed) -> dict[str, bytes]:
    with zipfile.ZipFile(installed.wheel) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        return {name: archive.read(name) for name in archive.namelist()}


def test_it_has_no_name_that_others_use(members: dict[str, bytes]) -> None:
    tops = {name.partition("/")[0] for name in members if ".dist-info/" not in name}

    assert tops == {"edgewright", *BESIDE}
    assert {f"{top}/py.typed" for top in tops} <= set(members)


def test_what_ships_is_the_same_byte_for_byte_and_all_of_it(members: dict[str, bytes]) -> None:
    tracked = git("ls-files", "-z", "edge_assets", "constructs/edge_handlers").split("\0")
    wanted = {name for name in tracked if name and not name.startswith("edge_assets/handlers/functions/")}
    inside = {f"edgewright/{name}" if name.startswith("edge_assets/") else name.partition("/")[2] for name in wanted}

    found = {name for name in members if name.startswith(("edgewright/edge_assets/", "edge_handlers/"))}
    assert found - {"edge_handlers/py.typed"} == inside
    for name in wanted:
        place = f"edgewright/{name}" if name.startswith("edge_assets/") else name.partition("/")[2]
        assert members[place] == (ROOT / name).read_bytes(), name


def test_it_brings_no_stage_of_this_repository(members: dict[str, bytes]) -> None:
    assert not [name for name in members if re.fullmatch(r"edgewright/config/[^/]*\.toml", name)]
    assert "edgewright/config/tables/prices.toml" in members


def named(source: str) -> Iterator[str]:
    """Modules that a text imports, and those that it names in full."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"python -m [\w.]+", node.value)
            yield node.value


def test_nothing_in_it_names_a_module_by_where_it_lies_in_the_repository(members: dict[str, bytes]) -> None:
    below = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for name in BELOW for file in (ROOT / name).rglob("*.py")
    }
    commands = {f"python -m {name}" for name in ("twin", "tools.doctor", "tools.model", "tools.plan", "tools.predict")}

    wrong = {
        f"{place}: {name}"
        for place, content in members.items()
        if place.endswith(".py") and "/edge_assets/" not in place and not place.startswith("edge_handlers/")
        for name in named(content.decode())
        if name in below | commands or (name.partition(".")[0] in BELOW and f"{name.replace('.', '/')}.py" in below)
    }

    assert wrong == set()


@pytest.mark.parametrize("line", ["import twin", "import config.names", "import tools.node as node"])
def test_an_import_that_would_bind_another_name_fails_the_build(line: str) -> None:
    with pytest.raises(WheelError, match=r"line 1: write from … import …, got import (twin|config|tools)"):
        mover({"twin", "twin.cli", "config.names", "tools.node"})(line)


def test_only_names_of_modules_move() -> None:
    source = (
        'from config.names import Names\nFILE, MODULE = "config.yaml", "twin.cli"\nSAID = "twin"  # python -m twin up\n'
    )

    moved = mover({"twin", "twin.cli", "config.names"})(source)

    assert moved.splitlines() == [
        "from edgewright.config.names import Names",
        'FILE, MODULE = "config.yaml", "edgewright.twin.cli"',
        'SAID = "twin"  # edgewright twin up',
    ]


def test_what_it_asks_for_is_what_the_locks_have() -> None:
    texts = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-twin.txt"))
    locked = dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==(\S+)", texts, re.MULTILINE))
    dev = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    locked |= dict(re.findall(r"^(awsiotsdk|setuptools)==(\S+)", dev, re.MULTILINE))
    extras = SETTINGS["project"]["optional-dependencies"].values()
    texts_asked = [*SETTINGS["project"]["dependencies"], *(each for some in extras for each in some)]
    asked = [Requirement(text) for text in (*texts_asked, *SETTINGS["build-system"]["requires"])]
    direct = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("requirements.in", "requirements-twin.in"))

    assert [str(each) for each in asked if locked[each.name] not in each.specifier] == []
    # botocore follows from boto3, whose version MiniStack's decides.
    assert set(re.findall(r"^([A-Za-z][\w.-]*)", direct, re.MULTILINE)) - {"botocore"} <= {each.name for each in asked}


def test_the_public_names_are_those_that_type_checkers_see() -> None:
    tree = ast.parse(Path(edgewright.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }

    assert seen == edgewright._MODULES
    with pytest.raises(AttributeError, match="edgewright has no public 'Nothing': it has ArtifactBucket, "):
        _ = edgewright.Nothing


def test_all_public_names_load_beside_modules_of_the_same_names_as_ours(installed: Installed, tmp_path: Path) -> None:
    for name in ("config", "tools", "stacks", "twin"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    (tmp_path / "app.py").write_text(
        "import sys, edgewright\n"
        "for name in dir(edgewright): getattr(edgewright, name)\n"
        "import config, tools, stacks, twin, constructs\n"
        "assert config.MINE and tools.MINE and stacks.MINE and twin.MINE\n"
        "assert hasattr(constructs, 'Construct')\n"
        "print(edgewright.Names('dev').thing_group, edgewright.ConfigurationError.__module__)\n"
    )

    said = installed.run("python", "app.py", cwd=tmp_path)

    assert said == "edgewright-dev edgewright.config.loader\n"


@pytest.fixture(scope="module")
def app(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user") / "my-app"
    said = installed.run("edgewright", "init", str(folder), "--stage", "line-2", cwd=folder.parent)
    assert said.startswith(f"made {folder}: iris on the stages twin and line-2\nnext: cd my-app && edgewright setup")
    return with_set_up(folder)


def test_a_new_app_is_synthesised_without_the_repository(installed: Installed, app: Path) -> None:
    before = {path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts}

    assert "runtime-" in installed.run("edgewright", "setup", cwd=app)
    said = installed.run("python", "-m", "pytest", "-q", "-k", "line-2", "-p", "no:cacheprovider", cwd=app)

    assert "1 passed" in said
    assert {path for path in installed.packages.rglob("*") if "__pycache__" not in path.parts} == before
    assert {path.name for path in app.iterdir()} >= {
        "app.py",
        "README.md",
        "cdk.json",
        ".gitignore",
        "models",
        "config",
    }
    assert (app / "requirements.txt").read_text().startswith(f"edgewright[twin]=={SETTINGS['project']['version']}\n")


#: Runs a command as in an environment that has what the wheel asks for without an extra, and nothing else.
ALONE = """
import importlib.metadata, re, runpy, sys
known, left = {"setuptools"}, ["edgewright"]
while left:
    name = re.match(r"[\\w.-]+", left.pop())[0].lower().replace("_", "-")
    if name not in known:
        known.add(name)
        try:
            left += [text for text in importlib.metadata.requires(name) or () if "extra ==" not in text]
        except importlib.metadata.PackageNotFoundError:
            pass
modules = importlib.metadata.packages_distributions()
missing = {top for top, names in modules.items() if not known & {name.lower().replace("_", "-") for name in names}}
assert "numpy" in missing and "aws_cdk" not in missing

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
sys.argv[:] = sys.argv[1:]
if sys.argv[0] == "edgewright":
    from edgewright.cli import main
    main()
else:
    sys.path.insert(0, "")
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_set_up_and_synth_need_no_extra(installed: Installed, app: Path) -> None:
    assert "runtime-" in installed.run("python", "-c", ALONE, "edgewright", "setup", cwd=app)
    assert installed.run("python", "-c", ALONE, "app.py", cwd=app) == ""  # and exit code 0
    with pytest.raises(AssertionError, match=r"needs numpy, which is not installed: pip install 'edgewright\[twin\]'"):
        installed.run("python", "-c", ALONE, "edgewright", "plan", cwd=app)


def test_a_new_app_plans_its_changes_also_as_a_folder_of_a_larger_repository(installed: Installed, app: Path) -> None:
    def git_in_app(*words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        subprocess.run(["git", *who, *words], cwd=app, check=True, capture_output=True, timeout=60)

    plan = ("edgewright", "plan", "--base", "HEAD", "--stage", "line-2")
    told = installed.end(*plan, cwd=app).stderr
    assert told == (
        f"plan: {app} must be in a git repository: git init, and commit what is deployed; then --base HEAD\n"
    )
    try:
        git_in_app("init", "--quiet", str(app.parent))
        git_in_app("add", ".")
        git_in_app("commit", "--quiet", "-m", "deployed")
        stage = app / "config" / "line-2.toml"
        stage.write_text(stage.read_text().replace('folder = "iris"', 'folder = "iris"\nserving = { topK = 2 }'))

        said = installed.run(*plan, cwd=app / "models")
    finally:
        shutil.rmtree(app.parent / ".git", ignore_errors=True)

    assert "edgewright-line-2: changed: 1 reconfigured" in said
    assert "~ edgewright.line-2." in said


def test_the_documented_app_of_ones_own_is_synthesised(installed: Installed, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "packages.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)

    installed.run("python", "-c", f"{code}\nprint(app.outdir)", cwd=tmp_path)


def test_a_mistake_in_a_new_app_is_told_in_words(installed: Installed, app: Path, tmp_path: Path) -> None:
    stage = app / "config" / "twin.toml"
    text = stage.read_text()
    stage.write_text(text.replace("us-east-1", "moon"))
    try:
        ended = installed.end("python", "app.py", cwd=app)
    finally:
        stage.write_text(text)

    assert ended.returncode == 1
    assert ended.stderr.startswith("config/twin.toml: region: ")
    assert "Traceback" not in ended.stderr
    lost = installed.end("edgewright", "setup", cwd=tmp_path)
    assert lost.returncode == 1
    assert lost.stderr.endswith("without package-lock.json: edgewright init DIR\n")


def test_a_project_that_is_not_there_is_told_in_a_line(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEWRIGHT_PROJECT", "/nowhere")
    nowhere = installed.end("edgewright", "doctor", cwd=tmp_path)
    monkeypatch.delenv("EDGEWRIGHT_PROJECT")
    (tmp_path / "gone").mkdir()
    command = f"import os, sys; os.rmdir('{tmp_path / 'gone'}'); from edgewright import cli"
    gone = installed.end("python", "-c", command, cwd=tmp_path / "gone")

    assert (nowhere.returncode, gone.returncode) == (1, 1)
    assert nowhere.stderr == (
        "edgewright: EDGEWRIGHT_PROJECT must be the folder of an app, got /nowhere: there is no such folder\n"
    )
    assert gone.stderr == "edgewright: the working folder must be there, it is gone: cd to an app's\n"


@pytest.mark.parametrize("importing", ["aws_cdk", "edge_constructs.model_package"])
def test_ctrl_c_ends_a_new_app_in_a_line(importing: str, installed: Installed, app: Path) -> None:
    program = (
        "import os, runpy, signal, sys\n"
        # As a shell at a terminal starts it; what it starts behind its back ignores the key.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {importing!r}:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "runpy.run_path('app.py', run_name='__main__')\n"
    )

    ended = installed.end("python", "-c", program, cwd=app)

    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "interrupted\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["full"], r"DIR must be a new or empty folder, got .*/full with kept\.txt: name another one"),
        (["full/kept.txt"], r"DIR must be a new or empty folder, got .*: Not a directory; name another one"),
        (["full/kept.txt/app"], r"DIR must be a new or empty folder, got .*: Not a directory; name another one"),
        (["new", "--stage", "Dev"], r"--stage must be a stage's name, got 'Dev' \(.*\): lower-case letters, "),
        (["new", "--stage", "a-much-too-long-name"], r"--stage must be a stage's name, got 'a-much-too-long-name'"),
        (["new", "--stage", "twin-2"], r"--stage must not begin with twin and a hyphen, got 'twin-2'"),
        (["new", "--model", "rose"], r"--model must be the folder of a model, or one of digit-detector, .*got rose"),
        (["new", "--model", "full"], r"--model full: .*model\.json"),
        (["new", "--model", "Full"], r"--model must be a folder named by lower-case letters, .*got 'Full'"),
    ],
)
def test_what_is_wrong_with_an_app_to_be_is_told_and_nothing_is_made(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("full", "Full"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept.txt").touch()

    ended = CliRunner().invoke(cli.application, ["init", *words])

    assert isinstance(ended.exception, cli.CommandError), ended.output
    assert re.search(said, str(ended.exception)), str(ended.exception)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Full", "full", "kept.txt", "kept.txt"]


def test_a_destroy_takes_away_the_stage_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed: list[Path] = []
    monkeypatch.setattr(cli, "PROJECT", tmp_path)
    monkeypatch.setattr("twin.state.load_state", lambda _home: SimpleNamespace(running=True, environment=dict))
    monkeypatch.setattr("tools.offline_deploy.OfflineDeploy.destroy", lambda app: destroyed.append(app.assembly))
    (tmp_path / "out" / "twin" / "cdk.out").mkdir(parents=True)

    other = CliRunner().invoke(cli.application, ["destroy", "--stage", "dev"])
    own = CliRunner().invoke(cli.application, ["destroy"])

    assert re.search(r"the templates of stage dev must be in .*/out/dev/cdk\.out, they are not", str(other.exception))
    assert own.exit_code == 0, own.output
    assert destroyed == [tmp_path / "out" / "twin" / "cdk.out"]


def test_a_stage_that_is_not_there_is_told_before_a_twin_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.lifecycle.start", lambda *_words, **_named: pytest.fail("a twin was started"))

    told = CliRunner().invoke(cli.application, ["deploy", "--stage", "nope"]).exception

    assert isinstance(told, cli.CommandError)
    assert "stage must be one of dev, prod, twin, got 'nope'" in str(told)


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("tools.offline_deploy.private_folder", NotADirectoryError(20, "Not a directory", "out/twin")),
        ("subprocess.Popen.communicate", subprocess.TimeoutExpired("app.py", 180)),
        (
            "tools.offline_deploy.OfflineDeploy.wait_for_device",
            EndpointConnectionError(endpoint_url="http://127.0.0.1:4566"),
        ),
    ],
)
def test_whatever_ends_a_deploy_is_told_in_a_line(
    step: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: Any, **_named: Any) -> None:
        raise error

    state = SimpleNamespace(running=True, environment=dict, home=tmp_path)
    monkeypatch.setattr(cli, "PROJECT", tmp_path)
    monkeypatch.setattr("twin.lifecycle.start", lambda *_words, **_named: state)
    for each in ("bootstrap", "deploy", *(["synth"] if step.endswith("device") else [])):
        monkeypatch.setattr(f"tools.offline_deploy.OfflineDeploy.{each}", lambda _app: None)
    monkeypatch.setattr(step, fail)

    told = CliRunner().invoke(cli.application, ["deploy"]).exception

    assert isinstance(told, cli.CommandError)
    assert re.search("Not a directory|must end within 180 s|Could not connect to the endpoint", str(told))


def test_a_deploy_and_a_destroy_end_with_their_twin(tmp_path: Path) -> None:
    state = SimpleNamespace(running=True, environment=dict, home=tmp_path)
    app = cli._app(state, "twin")  # type: ignore[arg-type]

    assert not app.twin_has_ended()
    state.running = False
    assert app.twin_has_ended()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(scaffold, "_write", refuse)

    with pytest.raises(scaffold.NewAppError, match=r"got .*/app: Permission denied; name a folder that you may write"):
        list(scaffold.make(tmp_path / "app", "dev", "iris"))

    assert list(tmp_path.iterdir()) == []


def test_the_next_command_names_a_folder_with_a_space_as_a_shell_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    made = list(scaffold.make(Path("my app"), "dev", "iris"))

    assert made[1].startswith("next: cd 'my app' && edgewright setup")


def test_an_app_is_made_in_the_empty_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")

    made = list(scaffold.make(Path(), "dev", "iris"))

    # The shell is in the folder that made way.
    assert made[1].startswith(f"next: cd {tmp_path / 'app'} && edgewright setup")
    assert (tmp_path / "app" / "cdk.json").is_file()


@pytest.mark.parametrize("model", scaffold.shipped_models())
def test_every_model_that_comes_along_makes_an_app(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    made = list(scaffold.make(tmp_path / "empty", "twin", model))

    assert made[0] == f"made {tmp_path / 'empty'}: {model} on the stages twin"
    assert f"edgewright predict {model} --" in (tmp_path / "empty" / "README.md").read_text()
    assert (tmp_path / "empty" / "models" / model / "model.onnx").is_file()
    assert [path.name for path in (tmp_path / "empty" / "config").iterdir()] == ["twin.toml"]
    # As the command's help has them.
    assert model in str(CliRunner().invoke(cli.application, ["init", "--help"], terminal_width=300).output)


def test_an_apps_folder_is_found_from_below_and_may_be_named(tmp_path: Path) -> None:
    below = tmp_path / "app" / "models" / "iris"
    below.mkdir(parents=True)
    (tmp_path / "app" / "cdk.json").touch()

    assert project_folder({}, below) == tmp_path / "app"
    assert project_folder({}, tmp_path) == tmp_path
    assert project_folder({"EDGEWRIGHT_PROJECT": str(below)}, tmp_path) == below
    with pytest.raises(ValueError, match=r"EDGEWRIGHT_PROJECT must be the folder of an app, got /nowhere: there is no"):
        project_folder({"EDGEWRIGHT_PROJECT": "/nowhere"}, tmp_path)
