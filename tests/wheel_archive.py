"""An archive of wheels for any device, where set-up makes only those that the repository's own stages need."""

from pathlib import Path

from edge_constructs.edge_assets import Archive
from edge_constructs.reproducible_zip import write_zip


def wheel_archive(python: str, machine: str, folder: Path, *, agent: bool = False, accelerator: str = "cpu") -> Archive:
    """Write one that keeps every rule; in place of `runtime_archive` and `compiler_archive`."""
    file = folder / f"{python}-{machine}-{agent}-{accelerator}" / "runtime.zip"
    wheel = "wheels/six-1.17.0-py2.py3-none-any.whl"
    lock = f"six==1.17.0 --hash=sha256:{'0' * 64}\n"
    return Archive(
        file,
        write_zip(file, {"target": f"{python} {machine}\n".encode(), "requirements.lock": lock.encode(), wheel: b""}),
    )
