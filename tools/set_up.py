"""Makes the environments that the other commands run in, from locks alone.

python3 tools/set_up.py run         .venv and the CDK command line: what `make demo` needs
python3 tools/set_up.py dev         .venv with the checks, too
python3 tools/set_up.py compliance  .venv-compliance: analysers of templates and policies
python3 tools/set_up.py sagemaker   .venv-sagemaker: the SDK of `python -m tools.compile_model`
python3 tools/set_up.py docs        .venv-docs: mkdocs, for `make docs`
python3 tools/set_up.py model       .venv-model: torch, for `python -m tools.export_resnet18`
python3 tools/set_up.py openvino    .venv-openvino: ONNX Runtime with OpenVINO's provider, for `make openvino`
python3 tools/set_up.py cuda        .venv-cuda: that with NVIDIA's, for `benchmarks/accelerators.py`

What is there and right is left alone; what an earlier run left unfinished goes on; what a lock no longer names is
removed. It runs in the user's own Python, before anything is installed: standard library only. Other commands ask here
for what `make setup` alone does not bring.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: The environment of the pinned installer.
TOOLS = ".tools"
INSTALLER_LOCK = "requirements-installer.txt"
#: An installation, the largest, may take that long on a slow line; then the line is down.
LIMIT_S = 3600
#: How long to wait for another set-up in the same folder.
LOCK_LIMIT_S = 1200
#: As `platform` names system and architecture. ONNX Runtime publishes no wheel for Intel Macs.
MACHINES = (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64"))
STATE = "set-up.json"
#: In place of a digest while an installation runs.
_UNFINISHED = ""
_WITH_DEV = "with devDependencies"


@dataclass(frozen=True)
class Environment:
    """A virtual environment and what is installed into it.

    Args:
        folder: Name of the virtual environment.
        locks: Complete, hashed requirement files, together one installation.
        purpose: What for, said while it is made.
        node: Whether the packages of package-lock.json belong to it.
        node_dev: Whether those that only tests need do, too.
    """

    folder: str
    locks: tuple[str, ...]
    purpose: str
    node: bool = False
    node_dev: bool = False


_RUN = ("requirements.txt", "requirements-twin.txt")
ENVIRONMENTS = {
    "run": Environment(".venv", _RUN, "the app and the twin", node=True),
    "dev": Environment(".venv", (*_RUN, "requirements-dev.txt"), "the checks, too", node=True, node_dev=True),
    "compliance": Environment(".venv-compliance", ("requirements-compliance.txt",), "analysers"),
    "sagemaker": Environment(
        ".venv-sagemaker", ("requirements.txt", "requirements-sagemaker.txt"), "SageMaker's SDK, about 1 GB"
    ),
    "docs": Environment(".venv-docs", ("requirements-docs.txt",), "the documentation as a site"),
    "model": Environment(".venv-model", (*_RUN, "requirements-model.txt"), "torch, about 5.5 GB on Linux"),
    "openvino": Environment(".venv-openvino", ("requirements-openvino.txt",), "OpenVINO's provider, about 400 MB"),
    "cuda": Environment(".venv-cuda", ("requirements-cuda.txt",), "the providers for NVIDIA's cards, about 700 MB"),
}


class SetUpError(Exception):
    """An environment could not be made; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 everything is there, 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python3 tools/set_up.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("environment", nargs="+", choices=list(ENVIRONMENTS), help="which to make")
    parser.add_argument(
        "--installer",
        choices=("uv", "pip"),
        default=os.environ.get("EDGEWRIGHT_INSTALLER", "uv"),
        help="pip is for platforms without a wheel of uv, and slower (default: %(default)s, EDGEWRIGHT_INSTALLER)",
    )
    options = parser.parse_args(arguments)
    if (platform.system(), platform.machine()) not in MACHINES:
        places = ", ".join(" ".join(each) for each in MACHINES)
        got = f"{platform.system()} {platform.machine()}"
        print(
            f"set-up: the machine must be one of {places}, got {got}: ONNX Runtime has no wheel for it", file=sys.stderr
        )
        return 1
    try:
        with _one_at_a_time(ROOT / TOOLS):
            for name in options.environment:
                SetUp(ROOT, options.installer).make(ENVIRONMENTS[name])
    except (SetUpError, OSError) as exc:
        print(f"set-up: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next run goes on from here", file=sys.stderr)
        return 130
    return 0


class SetUp:
    """Makes environments in one checkout.

    Args:
        root: The checkout: locks are read and environments made there.
        installer: `uv` or `pip`.
    """

    def __init__(self, root: Path, installer: str = "uv") -> None:
        self._root = root
        self._installer = installer

    def make(self, wanted: Environment) -> None:
        """Install what is missing from an environment, and nothing if it is complete.

        Args:
            wanted: The environment.

        Raises:
            SetUpError: A package, a hash or the registry is not as the locks say.
        """
        environment = self._root / wanted.folder
        state = State.read(environment)
        if not state.is_usable(environment, self._root):
            self._create(environment)
            state = State(_python(), str(self._root), {})
        # A smaller set takes nothing away from a larger one that is installed already.
        names = dict.fromkeys([*wanted.locks, *(name for name in state.locks if (self._root / name).is_file())])
        digests = {name: _digest(self._root / name) for name in names}
        if state.locks != digests:
            print(f"› Python packages in {wanted.folder}: {wanted.purpose} (hash-checked)", flush=True)
            dataclasses.replace(state, locks=dict.fromkeys(digests, _UNFINISHED)).write(environment)
            self._install(environment, [self._root / name for name in digests])
            dataclasses.replace(state, locks=digests).write(environment)
        if wanted.node:
            self.make_node(environment, dev=wanted.node_dev)

    def _create(self, environment: Path) -> None:
        if environment.exists():
            print(f"› {environment.name} is of another Python or place, or broken: it is made anew", flush=True)
            shutil.rmtree(environment)
        # pip is one of the locked packages: the one that the interpreter brings stays out.
        _run([_base_python(), "-m", "venv", "--without-pip", str(environment)], f"no {environment.name}")

    def _install(self, environment: Path, locks: Sequence[Path]) -> None:
        python = str(environment / "bin" / "python")
        if self._installer == "pip" or not (uv := self._uv()):
            self._install_by_pip(environment, locks)
            return
        settings, variables = uv_settings(self._pip_configuration())
        command = [str(uv), "pip", "sync", "--quiet", "--require-hashes", "--no-python-downloads", "--python", python]
        variables = {"UV_CACHE_DIR": str(self._root / ".cache" / "uv"), **variables, **_own("UV_")}
        _run([*command, *settings, *map(str, locks)], "uv could not install the packages", variables)

    def _install_by_pip(self, environment: Path, locks: Sequence[Path]) -> None:
        # pip takes nothing away, so the environment begins empty.
        command = [*_pip_for(environment), *_PIP_INSTALL]
        for lock in locks:
            command += ["-r", str(lock)]
        _run(command, "pip could not install the packages", self._pip_variables())

    def _pip_variables(self) -> dict[str, str]:
        return {"PIP_CACHE_DIR": str(self._root / ".cache" / "pip"), **_own("PIP_")}

    def _uv(self) -> Path | None:
        """The pinned uv, in an environment of its own; None where it has no wheel."""
        tools = self._root / TOOLS
        lock = self._root / INSTALLER_LOCK
        uv = tools / "bin" / "uv"
        state = State.read(tools)
        digests = {lock.name: _digest(lock)}
        if not state.is_usable(tools, self._root) or state.locks != digests:
            print("› uv, which installs the rest (hash-checked)", flush=True)
            command = [*_pip_for(tools), *_PIP_INSTALL, "--only-binary", ":all:", "-r", str(lock)]
            try:
                _run(command, "pip could not fetch uv", self._pip_variables())
            except SetUpError as exc:
                if "No matching distribution found for uv" not in str(exc):
                    raise
                print(
                    f"› pip found no uv for this platform and installs by itself, which takes longer:\n{exc}",
                    flush=True,
                )
                return None
            State(_python(), str(self._root), digests).write(tools)
        return uv

    def _pip_configuration(self) -> dict[str, str]:
        python = _python_with_pip() or str(self._root / TOOLS / "bin" / "python")
        return pip_configuration(_run([python, "-m", "pip", "config", "list"], "pip's configuration cannot be read"))

    def make_node(self, environment: Path, *, dev: bool) -> None:
        """Install the packages of package-lock.json, unless they are there.

        Args:
            environment: Has npm.
            dev: Whether those that only tests need come, too.

        Raises:
            SetUpError: npm could not; its own words are in the text.
        """
        digest = _digest(self._root / "package.json") + _digest(self._root / "package-lock.json")
        mark = self._root / "node_modules" / ".set-up"
        wanted = f"{digest} {_WITH_DEV}" if dev else digest
        found = mark.read_text(encoding="utf-8") if mark.is_file() else ""
        # What tests need, too, is no reason to take it away again.
        if found in (wanted, f"{digest} {_WITH_DEV}"):
            return
        # `npm ci` empties the folder first, so that the mark of an earlier installation cannot outlive it. What tests
        # need besides comes on top of the same lock's, by the same hashes.
        how = ("install", "--no-save") if found == digest else ("ci",)
        print(f"› CDK command line{' and the browser tests' if dev else ''} (hash-checked)", flush=True)
        variables = {
            "npm_config_cache": str(self._root / ".cache" / "npm"),
            **_own("npm_config_"),
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        npm = [str(environment / "bin" / "npm"), *how, "--no-progress", "--loglevel=error"]
        npm += [] if dev else ["--omit=dev"]
        _run(npm, "npm could not install the CDK command line", variables, cwd=self._root)
        mark.write_text(wanted, encoding="utf-8")


@dataclass(frozen=True)
class State:
    """What an environment holds, as its `set-up.json` says.

    Args:
        python: Its interpreter.
        root: Where it was made: its scripts name that path in their first line.
        locks: File name to digest of what is installed, in the order of installation; `_UNFINISHED` while it runs.
    """

    python: str
    root: str
    locks: Mapping[str, str]

    @classmethod
    def read(cls, environment: Path) -> State:
        """Read an environment's state; that of nothing at all if it has none that can be read."""
        try:
            content = json.loads((environment / STATE).read_text(encoding="utf-8"))
            return cls(content["python"], content["root"], dict(content["locks"]))
        except (OSError, ValueError, TypeError, KeyError):
            return cls("", "", {})

    def write(self, environment: Path) -> None:
        """Write it, whole or not at all."""
        file = environment / STATE
        new = file.with_suffix(".new")
        new.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        new.replace(file)

    def is_usable(self, environment: Path, root: Path) -> bool:
        """Whether more can be installed into it: made here, by this Python, which is still there."""
        made_here = (self.python, self.root) == (_python(), str(root))
        return made_here and (environment / "bin" / "python").exists()


def pip_configuration(listing: str) -> dict[str, str]:
    """Merge what `pip config list` prints, as `pip install` does.

    Args:
        listing: Lines such as `global.index-url='https://…'`.

    Returns:
        Option to value; an environment variable wins over `[install]`, and that over `[global]`.
    """
    merged: dict[str, str] = {}
    lines = [match.groups() for match in re.finditer(r"^(global|install|:env:)\.([\w-]+)=(.*)$", listing, re.M)]
    for section in ("global", "install", ":env:"):
        for where, option, value in lines:
            if where == section:
                with contextlib.suppress(ValueError, SyntaxError):
                    merged[option] = str(ast.literal_eval(value)).strip()
    return merged


def uv_settings(pip: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Translate a user's settings of pip, which uv does not read, into those of uv.

    Args:
        pip: Option to value, as `pip_configuration` gives them.

    Returns:
        Arguments and environment variables. Variables that uv reads and the user has set win over them.
    """
    arguments: list[str] = []
    if pip.get("index-url"):
        arguments += ["--default-index", pip["index-url"]]
    for option, flag in (("extra-index-url", "--index"), ("find-links", "--find-links"), ("trusted-host", _INSECURE)):
        for value in pip.get(option, "").split():
            arguments += [flag, value]
    # pip takes all indexes for equal; a hash decides which file is the right one.
    arguments += ["--index-strategy", "unsafe-best-match"]
    if pip.get("no-index", "").lower() in _TRUE:
        arguments.append("--no-index")
    if pip.get("keyring-provider") == "subprocess":
        arguments += ["--keyring-provider", "subprocess"]
    # pip trusts what the system trusts; so must uv, behind a proxy with a certificate of its own.
    variables = {"UV_SYSTEM_CERTS": "true"}
    for option, names in _UV_VARIABLES.items():
        variables.update({name: pip[option] for name in names if pip.get(option) and not os.environ.get(name)})
    return arguments, variables


# `--no-deps` keeps a pip of any age from asking the index for what is newest: the locks are complete.
_PIP_INSTALL = ("install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes")
_NO_VENV = "Python's venv module is not complete (on Debian and Ubuntu: apt install python3-venv)"
_INSECURE = "--allow-insecure-host"
_TRUE = ("1", "true", "yes", "on")
_UV_VARIABLES = {
    "cert": ("SSL_CERT_FILE",),
    "client-cert": ("SSL_CLIENT_CERT",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "retries": ("UV_HTTP_RETRIES",),
}


def _pip_for(environment: Path) -> list[str]:
    """Make an empty environment, and give the pip that the interpreter brings, told to act on it."""
    python = str(environment / "bin" / "python")
    if with_pip := _python_with_pip():
        # To install pip into each environment would take longer than all the rest.
        _run([_base_python(), "-m", "venv", "--clear", "--without-pip", str(environment)], _NO_VENV)
        return [with_pip, "-m", "pip", "--python", python]
    _run([_base_python(), "-m", "venv", "--clear", str(environment)], _NO_VENV)
    return [python, "-m", "pip"]


@cache
def _python_with_pip() -> str | None:
    for python in dict.fromkeys((sys.executable, _base_python())):
        found = subprocess.run([python, "-I", "-c", "import pip"], capture_output=True, timeout=60, check=False)
        if found.returncode == 0:
            return python
    return None


def _own(prefix: str) -> dict[str, str]:
    """Variables of a tool that the user has set: they win over ours."""
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def _python() -> str:
    return f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"


def _base_python() -> str:
    """The interpreter itself: an environment must not be made from one that it replaces."""
    return str(getattr(sys, "_base_executable", None) or sys.executable)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _run(command: Sequence[str], failure: str, variables: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a program and give what it prints, which is shown if it fails."""
    environment = {**os.environ, **(variables or {})}
    # Settings of a shell that must not reach into another environment.
    for name in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER"):
        environment.pop(name, None)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise SetUpError(f"{failure}: it must end within {LIMIT_S} s; run it again, it goes on from here") from exc
    if done.returncode:
        raise SetUpError(f"{failure} (exit {done.returncode}):\n{done.stdout.strip()}")
    return done.stdout


@contextlib.contextmanager
def _one_at_a_time(tools: Path) -> Iterator[None]:
    """Keep a second set-up in the same checkout waiting until the first has ended."""
    with tools.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + LOCK_LIMIT_S
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SetUpError(
                        f"another set-up in {ROOT} must end within {LOCK_LIMIT_S} s: is it stuck?"
                    ) from None
                if not told:
                    print("› another set-up runs in this folder: waiting for it", flush=True)
                    told = True
                time.sleep(0.5)
        yield


def require(program: str, environment: str, *modules: str) -> None:
    """End the program with exit code 2 where a package is missing, before it has done anything.

    Args:
        program: How the command is called, such as `python -m tools.train_iris`.
        environment: The one of `tools.set_up` that has the packages; `make setup-<environment>` makes it.
        modules: The packages, as they are imported.

    Raises:
        SystemExit: One is not installed; standard error says which, where, and what to run.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        folder = ENVIRONMENTS[environment].folder
        call = "" if folder == ENVIRONMENTS["run"].folder else program.replace("python", f"{folder}/bin/python", 1)
        print(
            f"{program}: {', '.join(modules)} must be installed, {', '.join(missing)} not found in {sys.prefix}: "
            f"run make setup-{environment}{call and f', then {call}'}",
            file=sys.stderr,
        )
        raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
