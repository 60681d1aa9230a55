"""A joined device, laid out as nucleus lite's package does it, by the commands of its bundle and with real users.

Where the tests run as root, components run as a user of their own. Elsewhere the same commands are run without a change
of owner, and components run as whoever runs the tests.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twin.devices.identity import COMPONENT_USER

NUCLEUS_USER = "ggcore"
ROOT = os.geteuid() == 0
_LIMIT_S = 60


@dataclass(frozen=True)
class Layout:
    """The folders of a packaged nucleus.

    Args:
        folder: Of all of them; everybody may look into it.
    """

    folder: Path

    @property
    def bundle(self) -> Path:
        """What `join` writes."""
        return self.folder / "bundle"

    @property
    def root(self) -> Path:
        """The nucleus' root folder."""
        return self.folder / "root"

    @property
    def configuration(self) -> Path:
        """What the nucleus reads at its start."""
        return self.folder / "etc" / "config.yaml"

    @property
    def key(self) -> Path:
        """The device's private key."""
        return self.root / "credentials" / "private.pem.key"


@contextlib.contextmanager
def packaged() -> Iterator[Layout]:
    """Make users and folders as the package does, while in the block."""
    with contextlib.ExitStack() as stack:
        # A package's folders do not depend on who installs it.
        stack.callback(os.umask, os.umask(0o022))
        # Not a folder of pytest's: nobody else may look into those.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgewright-package-", dir=_open_place())))
        folder.chmod(0o755)
        layout = Layout(folder)
        drop_in = folder / "etc" / "config.d" / "greengrass-lite.yaml"
        drop_in.parent.mkdir(parents=True)
        drop_in.write_text(f'runWithDefault:\n  posixUser: "{NUCLEUS_USER}:{NUCLEUS_USER}"\n')
        layout.root.mkdir(mode=0o755)
        if ROOT:
            stack.callback(_remove, COMPONENT_USER, known(COMPONENT_USER))
            if not known(NUCLEUS_USER):
                subprocess.run(["useradd", "--system", "--user-group", NUCLEUS_USER], check=True, timeout=_LIMIT_S)
                stack.callback(_remove, NUCLEUS_USER, False)
        yield layout


def _open_place() -> Path | None:
    """A temporary folder that the components' user reaches: `TMPDIR` may lie in a folder of its owner's alone."""
    places = [Path(tempfile.gettempdir()), Path("/var/tmp")]  # noqa: S108 - a name of its own is made in it
    return next((at for at in places if all(each.stat().st_mode & 0o001 for each in (at, *at.parents))), None)


def follow_readme(layout: Layout) -> None:
    """Run the commands of the bundle's README; services are not there to be restarted."""
    lite = (layout.bundle / "README.md").read_text().split("## ")[1]
    commands = [line.strip() for line in lite.splitlines() if line.startswith("    ")]
    left_out = "systemctl" if ROOT else "systemctl|useradd|chown"
    stub = f'sudo() {{ case $1 in {left_out}) ;; *) "$@" ;; esac; }}'
    script = "\n".join(["set -e", stub, *commands]).replace("/etc/greengrass", str(layout.configuration.parent))
    if not ROOT:
        script = script.replace(f" -o {NUCLEUS_USER} -g {NUCLEUS_USER}", "").replace(f"id {COMPONENT_USER} ||", "")
    subprocess.run(["/bin/sh", "-c", script], check=True, cwd=layout.bundle, timeout=_LIMIT_S)


def known(user: str) -> bool:
    """Whether the machine has such a user."""
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def reads(user: str, path: Path) -> bool:
    """Whether a user can read a file."""
    who = pwd.getpwnam(user)
    command = ["/bin/cat", str(path)]
    ended = subprocess.run(
        command, user=who.pw_uid, group=who.pw_gid, extra_groups=[], capture_output=True, timeout=_LIMIT_S
    )
    return ended.returncode == 0


def interpreter(layout: Layout) -> dict[str, str]:
    """Variables by which components' user finds this Python; it is copied where only its owner sees its folder."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = Path(os.path.realpath(sys.executable))
    if not ROOT or reads(COMPONENT_USER, own):
        return {"PATH": f"{own.parent}{os.pathsep}{os.environ['PATH']}"}
    copy = layout.folder / "python"
    left_out = shutil.ignore_patterns("site-packages", "test", "tests", "idlelib", "tkinter", "__pycache__", "*.a")
    shutil.copytree(Path(sys.base_prefix) / "lib", copy / "lib", symlinks=True, ignore=left_out)
    (copy / "bin").mkdir()
    shutil.copy(own, copy / "bin" / name)
    # A Python with a shared library of its own looks for it where it was built.
    return {"PATH": f"{copy / 'bin'}{os.pathsep}{os.environ['PATH']}", "LD_LIBRARY_PATH": str(copy / "lib")}


def _remove(user: str, stays: bool) -> None:
    if not stays and known(user):
        subprocess.run(["userdel", user], check=True, capture_output=True, timeout=_LIMIT_S)
