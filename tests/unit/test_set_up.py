"""Set-up from an index on loopback, with wheels made here: what is locked is installed, whatever else the index has."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tools import set_up
from tools.set_up import ENVIRONMENTS, Environment, SetUp, SetUpError, State, pip_configuration, uv_settings
from tools.wheelhouse import read_pins

ROOT = Path(__file__).resolve().parents[2]
NEWER = "9999.1"


class Index:
    """A package index in a folder: `<project>/<wheel>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Files that the server answers with 503.
        self.down: set[str] = set()

    def add(self, name: str, version: str, requires: list[str], scripts: Mapping[str, str] | None = None) -> str:
        """Make a wheel and give its SHA-256."""
        project = canonicalize_name(name).replace("-", "_")
        info = f"{project}-{version}.dist-info"
        files = {
            f"{project}_made_here/__init__.py": "",
            f"{info}/METADATA": "\n".join(
                [
                    "Metadata-Version: 2.1",
                    f"Name: {name}",
                    f"Version: {version}",
                    *(f"Requires-Dist: {r}" for r in requires),
                    "",
                ]
            ),
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: here\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            **{f"{project}-{version}.data/scripts/{script}": text for script, text in (scripts or {}).items()},
        }
        digests = {
            path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
            for path, text in files.items()
        }
        files[f"{info}/RECORD"] = "".join(
            f"{path},sha256={digests[path].decode()},{len(text.encode())}\n" for path, text in files.items()
        )
        wheel = self.folder / canonicalize_name(name) / f"{project}-{version}-py3-none-any.whl"
        wheel.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in files.items():
                entry = zipfile.ZipInfo(path)
                entry.external_attr = 0o100755 << 16
                archive.writestr(entry, text)
        return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index(tmp_path / "index")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = [part for part in self.path.split("?")[0].split("/") if part]
            target = served.folder.joinpath(*parts[1:])
            if parts[-1] in served.down:
                self.send_error(503)
            elif parts[0] != "simple" or not target.exists():
                self.send_error(404)
            elif target.is_file():
                self._give(target.read_bytes(), "application/octet-stream")
            else:
                names = sorted(file.name for file in target.iterdir())
                self._give("".join(f'<a href="{name}">{name}</a>' for name in names).encode(), "text/html")

        def _give(self, content: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_"))]:
        monkeypatch.delenv(name)
    # The settings of who runs the tests, and of their machine, stay out.
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def fresh_checkout(tmp_path: Path, index: Index) -> Path:
    """A folder with an installer's lock, whose uv starts the real one."""
    folder = tmp_path / "a clone, späť"
    folder.mkdir()
    real = ROOT / ".tools" / "bin" / "uv"
    assert real.exists(), "make setup-dev makes the environment that this needs"
    version = read_pins(ROOT / "requirements-installer.txt")[0].version
    digest = index.add("uv", version, [], {"uv": f'#!/bin/sh\nexec "{real}" "$@"\n'})
    index.add("uv", NEWER, [])
    (folder / "requirements-installer.txt").write_text(f"uv=={version} --hash=sha256:{digest}\n")
    return folder


@pytest.fixture(scope="module")
def installer(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Where the installer's environment lies that the first test has made."""
    return [tmp_path_factory.mktemp("installer")]


@pytest.fixture
def checkout(fresh_checkout: Path, installer: list[Path]) -> Path:
    """The same with the installer's environment in it, made once: it takes longest."""
    made = installer[0] / ".tools"
    target = fresh_checkout / ".tools"
    if not made.exists():
        SetUp(fresh_checkout)._uv()
        shutil.copytree(target, made, symlinks=True)
    else:
        shutil.copytree(made, target, symlinks=True)
        dataclasses.replace(State.read(target), root=str(fresh_checkout)).write(target)
    return fresh_checkout


def lock(folder: Path, index: Index, *pins: str, name: str = "some.txt") -> Environment:
    """Write a lock of made-up packages, each with a newer release beside it."""
    lines = []
    for pin in pins:
        project, _, version = pin.partition("==")
        digest = index.add(project, version, [])
        index.add(project, NEWER, [])
        lines.append(f"{pin} --hash=sha256:{digest}\n")
    (folder / name).write_text("".join(lines))
    return Environment(".venv", (name,), "a test")


def installed(folder: Path, environment: str = ".venv") -> dict[str, str]:
    (site,) = (folder / environment / "lib").glob("python*/site-packages")
    found = importlib.metadata.distributions(path=[str(site)])
    return {str(canonicalize_name(each.metadata["Name"])): each.version for each in found}


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_what_is_locked_is_installed_though_every_package_has_a_newer_release(
    checkout: Path, index: Index, by: str
) -> None:
    metadata = json.loads((ROOT / "requirements-metadata.json").read_text(encoding="utf-8"))
    wanted = dataclasses.replace(ENVIRONMENTS["dev"], node=False)
    expected = {}
    for name in wanted.locks:
        lines = []
        for pin in read_pins(ROOT / name):
            requires = metadata[f"{pin.name}=={pin.version}"]["requires"]
            digest = index.add(pin.name, pin.version, requires)
            index.add(pin.name, NEWER, requires)
            lines.append(f"{pin.requirement} --hash=sha256:{digest}\n")
            if pin.requirement.marker is None or pin.requirement.marker.evaluate():
                expected[pin.name] = pin.version
        (checkout / name).write_text("".join(lines))

    SetUp(checkout, by).make(wanted)

    found = installed(checkout)
    assert {name: version for name, version in found.items() if name in expected} == expected
    assert set(found) == set(expected)
    assert len(expected) > 90


def test_what_a_lock_no_longer_names_is_removed_and_a_second_run_does_nothing(
    checkout: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    SetUp(checkout).make(lock(checkout, index, "one==1.0", "two==1.0"))
    assert installed(checkout) == {"one": "1.0", "two": "1.0"}

    SetUp(checkout).make(lock(checkout, index, "one==1.1"))
    assert installed(checkout) == {"one": "1.1"}

    capsys.readouterr()
    SetUp(checkout).make(Environment(".venv", ("some.txt",), "a test"))
    assert capsys.readouterr().out == ""


def test_a_smaller_set_takes_nothing_from_a_larger_one(checkout: Path, index: Index) -> None:
    small = lock(checkout, index, "one==1.0", name="small.txt")
    lock(checkout, index, "two==1.0", name="more.txt")
    SetUp(checkout).make(Environment(".venv", ("small.txt", "more.txt"), "a test"))

    SetUp(checkout).make(small)
    assert installed(checkout) == {"one": "1.0", "two": "1.0"}

    lock(checkout, index, "one==2.0", name="small.txt")
    SetUp(checkout).make(small)
    assert installed(checkout) == {"one": "2.0", "two": "1.0"}


def test_an_unfinished_set_up_says_why_and_goes_on(checkout: Path, index: Index) -> None:
    wanted = lock(checkout, index, "one==1.0", "two==1.0")
    index.down.add("two-1.0-py3-none-any.whl")
    with pytest.raises(SetUpError, match=r"(?s)uv could not install the packages \(exit \d+\):.*two"):
        SetUp(checkout).make(wanted)

    index.down.clear()
    SetUp(checkout).make(wanted)

    assert installed(checkout) == {"one": "1.0", "two": "1.0"}


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_a_file_with_another_hash_is_refused(checkout: Path, index: Index, by: str) -> None:
    wanted = lock(checkout, index, "one==1.0")
    index.add("one", "1.0", ["something-else"])

    with pytest.raises(SetUpError, match=r"(?si)one.*(hash|sha256)"):
        SetUp(checkout, by).make(wanted)

    assert "one" not in installed(checkout)


def test_an_installer_with_another_hash_is_refused_and_no_other_takes_its_place(
    fresh_checkout: Path, index: Index
) -> None:
    wanted = lock(fresh_checkout, index, "one==1.0")
    (fresh_checkout / "requirements-installer.txt").write_text(f"uv==0.1 --hash=sha256:{'0' * 64}\n")
    index.add("uv", "0.1", [])

    with pytest.raises(SetUpError, match=r"(?s)pip could not fetch uv.*HASHES"):
        SetUp(fresh_checkout).make(wanted)


def test_an_interpreter_without_pip_brings_it_by_venv(
    fresh_checkout: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "_python_with_pip", lambda: None)

    SetUp(fresh_checkout).make(lock(fresh_checkout, index, "one==1.0"))

    assert installed(fresh_checkout) == {"one": "1.0"}


def test_without_a_wheel_of_uv_pip_installs(
    fresh_checkout: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = lock(fresh_checkout, index, "one==1.0")
    shutil.rmtree(index.folder / "uv")
    index.add("uv", NEWER, [])

    SetUp(fresh_checkout).make(wanted)

    assert "pip found no uv for this platform" in capsys.readouterr().out
    assert installed(fresh_checkout)["one"] == "1.0"


@pytest.mark.parametrize("change", ["moved", "other python", "no interpreter", "state cut off"])
def test_an_environment_that_cannot_work_here_is_made_anew(checkout: Path, index: Index, change: str) -> None:
    wanted = lock(checkout, index, "one==1.0")
    SetUp(checkout).make(wanted)
    environment = checkout / ".venv"
    state = State.read(environment)
    if change == "moved":
        dataclasses.replace(state, root="/elsewhere").write(environment)
    elif change == "other python":
        dataclasses.replace(state, python="cpython 3.10").write(environment)
    elif change == "no interpreter":
        (environment / "bin" / "python").unlink()
        (environment / "bin" / "python").symlink_to("/nowhere/python")
    else:
        (environment / "set-up.json").write_text('{"python": "cpy')
    (environment / "leftover").touch()

    SetUp(checkout).make(wanted)

    assert not (environment / "leftover").exists()
    assert installed(checkout) == {"one": "1.0"}


def test_what_npm_says_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("npm", "node"):
        (tmp_path / ".venv" / "bin" / name).symlink_to(ROOT / ".venv" / "bin" / name)
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setenv("npm_config_fetch_retries", "0")

    with pytest.raises(SetUpError, match=r"(?s)npm could not install the CDK command line \(exit \d+\):.*ECONNREFUSED"):
        SetUp(tmp_path).make_node(tmp_path / ".venv", dev=True)

    assert not (tmp_path / "node_modules" / ".set-up").exists()


def test_what_tests_need_besides_comes_on_top_by_the_locks_hashes(tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("npm", "node"):
        (tmp_path / ".venv" / "bin" / name).symlink_to(ROOT / ".venv" / "bin" / name)
    sums = {name: npm_package(tmp_path, name) for name in ("one", "two")}
    needed = {"dependencies": {"one": "file:one.tgz"}, "devDependencies": {"two": "file:two.tgz"}}
    packages: dict[str, dict[str, object]] = {
        f"node_modules/{name}": {"version": "1.0.0", "resolved": f"file:{name}.tgz", "integrity": sums[name]}
        for name in sums
    }
    packages["node_modules/two"] |= {"dev": True}
    lock = {"name": "x", "lockfileVersion": 3, "requires": True, "packages": {"": {"name": "x", **needed}, **packages}}
    (tmp_path / "package.json").write_text(json.dumps({"name": "x", "private": True, **needed}))
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    modules, set_up_here = tmp_path / "node_modules", SetUp(tmp_path)

    set_up_here.make_node(tmp_path / ".venv", dev=False)
    assert (modules / "one" / "package.json").is_file()
    assert not (modules / "two").exists()
    (modules / "one" / "kept").touch()

    whole = (tmp_path / "two.tgz").read_bytes()
    npm_package(tmp_path, "two", "not what was locked")
    with pytest.raises(SetUpError, match="EINTEGRITY"):
        set_up_here.make_node(tmp_path / ".venv", dev=True)
    (tmp_path / "two.tgz").write_bytes(whole)
    set_up_here.make_node(tmp_path / ".venv", dev=True)
    assert (modules / "two" / "package.json").is_file()
    assert (modules / "one" / "kept").exists(), "nothing is installed twice"

    (tmp_path / "package.json").write_text(json.dumps({"name": "x", "private": True, "description": "new", **needed}))
    set_up_here.make_node(tmp_path / ".venv", dev=True)
    assert not (modules / "one" / "kept").exists(), "another lock begins with an empty folder"


def npm_package(folder: Path, name: str, description: str = "") -> str:
    """Make a package's archive and give its integrity as a lock has it."""
    content = json.dumps({"name": name, "version": "1.0.0", "description": description}).encode()
    member = tarfile.TarInfo("package/package.json")
    member.size = len(content)
    with tarfile.open(folder / f"{name}.tgz", "w:gz") as archive:
        archive.addfile(member, io.BytesIO(content))
    digest = hashlib.sha512((folder / f"{name}.tgz").read_bytes()).digest()
    return f"sha512-{base64.b64encode(digest).decode()}"


def test_a_second_set_up_waits_for_the_first_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_up, "LOCK_LIMIT_S", 0)

    with (
        set_up._one_at_a_time(tmp_path / ".tools"),
        pytest.raises(SetUpError, match=r"another set-up in .* must end within 0 s"),
        set_up._one_at_a_time(tmp_path / ".tools"),
    ):
        pass

    with set_up._one_at_a_time(tmp_path / ".tools"):
        pass


LISTING = """\
:env:.index-url='http://127.0.0.1:1/simple'
global.index-url='http://127.0.0.1:2/simple'
global.extra-index-url='\\nhttp://127.0.0.1:3/simple\\nfile:///packages'
install.trusted-host='pypi.corp.example'
global.trusted-host='other.example'
global.cert='/etc/corp.pem'
global.proxy='http://127.0.0.1:4'
download.timeout='1'
freeze.timeout='2'
"""


def test_the_users_settings_of_pip_are_merged_as_pip_does() -> None:
    assert pip_configuration(LISTING) == {
        "index-url": "http://127.0.0.1:1/simple",
        "extra-index-url": "http://127.0.0.1:3/simple\nfile:///packages",
        "trusted-host": "pypi.corp.example",
        "cert": "/etc/corp.pem",
        "proxy": "http://127.0.0.1:4",
    }


def test_the_users_settings_of_pip_reach_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)

    arguments, variables = uv_settings({**pip_configuration(LISTING), "no-index": "true", "find-links": "/wheels"})

    assert arguments == [
        *("--default-index", "http://127.0.0.1:1/simple"),
        *("--index", "http://127.0.0.1:3/simple", "--index", "file:///packages"),
        *("--find-links", "/wheels"),
        *("--allow-insecure-host", "pypi.corp.example"),
        *("--index-strategy", "unsafe-best-match", "--no-index"),
    ]
    proxies = {"HTTP_PROXY": "http://127.0.0.1:4", "HTTPS_PROXY": "http://127.0.0.1:4"}
    assert variables == {"UV_SYSTEM_CERTS": "true", "SSL_CERT_FILE": "/etc/corp.pem", **proxies}

    monkeypatch.setenv("SSL_CERT_FILE", "/mine.pem")
    assert "SSL_CERT_FILE" not in uv_settings(pip_configuration(LISTING))[1]
