"""What the bundler makes of twenty packages of different build systems and plug-in habits; needs a package index.

    .venv/bin/python benchmarks/bundled_packages.py [PACKAGE …] [--json FILE] [--uv PROGRAM]

Each is locked with what it needs, bundled for this machine, and every top-level module of it imported before and after
the trimming (tools/bundle_trim.py). Exit code 1 if a package is not bundled, or was not compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "constructs"), str(ROOT / "edge_assets" / "inference")]

from edge_constructs.edge_assets import DEPENDENCIES
from tools.bundle import BundleError, BundleTooLargeError, build
from tools.bundle_trim import announced, failing_imports, modules
from tools.wheelhouse import Target

#: Package to why it is here: what builds it, and what it reads at run time.
PACKAGES = {
    "scikit-image": "meson-python; stubs read by lazy_loader",
    "Markdown": "setuptools; extensions by entry point",
    "Pygments": "hatchling; plug-ins by entry point",
    "networkx": "setuptools; backends by entry point",
    "matplotlib": "meson-python; data files",
    "xarray": "setuptools-scm; engines by entry point",
    "pandas": "meson-python; plotting by entry point",
    "scikit-learn": "meson-python; tests in packages",
    "statsmodels": "setuptools, Cython; its own tests' data",
    "numba": "setuptools; extensions by entry point, its own tests",
    "lightgbm": "scikit-build-core; a library by ctypes",
    "opencv-python-headless": "scikit-build; libraries beside the package",
    "pydantic": "hatchling, maturin; plug-ins by entry point",
    "orjson": "maturin",
    "cryptography": "maturin; cffi",
    "boto3": "setuptools; botocore.docs, data as JSON",
    "jsonschema": "hatchling; schemas as data",
    "pyproj": "setuptools; a database as data",
    "shapely": "setuptools; libraries beside the package",
    "aiohttp": "setuptools, C; llhttp",
}


def main() -> int:
    """Bundle each package and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("packages", nargs="*", default=list(PACKAGES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--uv", type=Path, default=ROOT / ".tools" / "bin" / "uv")
    options = parser.parse_args()
    rows = []
    print("| package | what | MB before | MB after | modules | left out, notes |\n|---|---|---:|---:|---:|---|")
    for package in options.packages:
        with tempfile.TemporaryDirectory() as scratch:
            row = bundled(package, Path(scratch), options.uv)
        rows.append({"package": package, "what": PACKAGES.get(package, ""), **row})
        sizes = f"{row.get('before_mb', '')} | {row.get('after_mb', '')} | {row.get('modules', '')}"
        print(f"| {row.get('pin', package)} | {PACKAGES.get(package, '')} | {sizes} | {row['notes']} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(any(row["wrong"] for row in rows))


def bundled(package: str, scratch: Path, uv: Path) -> dict[str, object]:
    """Bundle one package with what it needs, and look at the archive as a device does."""
    target, function = Target.here(), scratch / "function"
    function.mkdir()
    lock = function / "requirements.lock"
    (scratch / "in.txt").write_text(f"{package}\n")
    command: list[str | Path] = [
        uv,
        "pip",
        "compile",
        "--quiet",
        "--generate-hashes",
        "--no-header",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*command, scratch / "in.txt", "-o", lock], check=True, timeout=300)
    pin = next(line for line in lock.read_text().splitlines() if line.lower().startswith(f"{package.lower()}=="))
    try:
        archive, report = build(function, target, scratch / "bundles")
    except (BundleError, BundleTooLargeError) as exc:
        return {"pin": pin.split()[0], "wrong": True, "notes": str(exc)}
    assert report
    with zipfile.ZipFile(archive) as members:
        members.extractall(scratch / "device")
    folder = scratch / "device" / DEPENDENCIES
    names = list(modules(folder))
    failed = failing_imports(sys.executable, folder, names)
    notes = [note for note in report.notes if "import as before" not in note]
    notes += [f"{name}: {error}" for name, error in failed.items()]
    return {
        "pin": pin.split()[0],
        "before_mb": round(report.before_bytes / 1e6, 1),
        "after_mb": round(report.after_bytes / 1e6, 1),
        "modules": len(names) - len(failed),
        "entry_points": sum(len(entries) for _, entries in announced(folder).values()),
        "notes": "; ".join(notes),
        # What does not import without packages that are no requirement of it did not before, either: the bundler says.
        "wrong": not any("import as before" in note for note in report.notes),
    }


if __name__ == "__main__":
    sys.exit(main())
