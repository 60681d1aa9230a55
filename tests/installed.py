"""The wheel, and an environment that has it and not this repository."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

from tools.set_up import INSTALLER_LOCK, TOOLS, pip_configuration, uv_settings
from tools.wheel import ROOT, build_wheel
from tools.wheelhouse import Target

LIMIT_S = 300
LOCKS = ("requirements.txt", "requirements-twin.txt", "requirements-dev.txt")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel.

    Args:
        folder: The virtual environment.
        wheel: What is installed in it.
        empty: Whether it has packages of its own alone; else it looks into those of this repository's environment.
    """

    folder: Path
    wheel: Path
    empty: bool

    @property
    def packages(self) -> Path:
        return next(self.folder.glob("lib/python*/site-packages"))

    def run(self, *command: str, cwd: Path, limit_s: float = LIMIT_S, check: bool = True) -> str:
        """Run a command of the environment outside the repository; what it said, or on a failure an AssertionError."""
        said = self.end(*command, cwd=cwd, limit_s=limit_s)
        assert said.returncode == 0 or not check, f"{' '.join(command)}:\n{said.stdout}\n{said.stderr}"
        return said.stdout + said.stderr

    def end(self, *command: str, cwd: Path, limit_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TWIN_"))}
        environment |= {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "200",
            "TERM": "dumb",
        }
        environment["JSII_RUNTIME_PACKAGE_CACHE_ROOT"] = str(Path(sys.prefix) / "jsii-packages")
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip


def beside(folder: Path) -> Installed:
    """Make an environment that sees the packages of this one by a path file, and of this repository the wheel alone.

    It is made in a second; what is not declared would not be missed, which the empty environment finds.
    """
    wheel = folder / build_wheel(str(folder))
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    made = Installed(folder / "venv", wheel, empty=False)
    (made.packages / "locked.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    python = str(made.folder / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
    return made


def apart(folder: Path) -> Installed | str:
    """Make an environment that has nothing, and install the wheel with what it asks for, out of the caches of set-up.

    Returns:
        The environment; or why the caches do not do, such as a set-up by pip.
    """
    uv = ROOT / TOOLS / "bin" / "uv"
    if not uv.is_file():
        return f"{uv} is missing: set-up was made by pip ({INSTALLER_LOCK})"
    wheel = folder / build_wheel(str(folder))
    made = Installed(folder / "venv", wheel, empty=True)
    venv.create(made.folder, with_pip=False, symlinks=True)
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings, variables = uv_settings(pip_configuration(said.stdout))
    environment = {**os.environ, "UV_CACHE_DIR": str(ROOT / ".cache" / "uv"), **variables}
    python = ["--offline", "--quiet", "--no-python-downloads", "--python", str(made.folder / "bin" / "python")]
    for command in (
        ["pip", "sync", *python, "--require-hashes", *settings, *(str(ROOT / lock) for lock in LOCKS)],
        # What it asks for must be there already: it is resolved without an index.
        ["pip", "install", *python, "--no-index", f"{wheel}[twin]"],
        ["pip", "check", *python[3:]],
    ):
        done = subprocess.run(
            [str(uv), *command], env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        if done.returncode and "sync" in command and "network was disabled" in done.stderr:
            return f"the caches of set-up are gone: {done.stderr.strip()[-300:]}"
        assert done.returncode == 0, done.stderr
    return made


def with_set_up(app: Path) -> Path:
    """Give an app what `edgewright setup` fetches, out of this repository."""
    (app / "node_modules").symlink_to(ROOT / "node_modules")
    shutil.copytree(
        ROOT / "edge_assets" / "runtime" / "wheelhouse",
        app / ".edgewright" / "wheelhouse",
        copy_function=os.link if app.stat().st_dev == ROOT.stat().st_dev else shutil.copy2,
        ignore=shutil.ignore_patterns("wheels-*"),
    )
    if not (app / ".edgewright" / "wheelhouse" / f"runtime-{Target.here().name}.zip").is_file():
        # Of this Python set-up has only the wheels that this repository's own twin asks for.
        with (app / "config" / "twin.toml").open("a", encoding="utf-8") as stage:
            stage.write("\n[agent]\nenabled = true\n")
    return app
