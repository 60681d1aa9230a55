"""What to send with a question: versions, stages, logs, and none of the secrets in them."""

import json
import os
import platform
import re
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from pathlib import Path

from twin import log_files

LOG_BYTES = 200_000
_FILES = ("config/*.toml", "cdk.json", "out/demo.json", "out/demo/*.log", "out/*/validation-report.json")
_TELLING = r"[\w.-]*(?:secret|token|passw(?:or)?d|authorization|signature|credential|cookie|svcuid|api_?key)[\w.-]*"
_PATTERNS = (
    (r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|\Z)", "[PEM]"),
    (r"(?<![\w/])(?:A3T|AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{12,}", "[key id]"),
    (r"\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?", "[token]"),
    (r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", "[login]"),
    (
        rf"(?i)((?<![\w-]){_TELLING}[\"']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s,;&}}\]]+)",
        r"\1[secret]",
    ),
    # Base64 of a key whose first line was cut off; a digest in hex has no capitals.
    (r"(?<![\w+/=-])(?=[^\s]*[A-Z])(?=[^\s]*[a-z])(?=[^\s]*\d)[A-Za-z0-9+/]{60,}={0,2}", "[long text]"),
    (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[address]"),
    (r"(?<![\d.])(?!0{12})\d{12}(?![\d.])", "[account]"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in _PATTERNS)


def redacted(text: str, literals: Iterable[str] = ()) -> str:
    """Take secrets out of a text, and what tells who and where somebody is.

    Args:
        text: Any.
        literals: Secrets that are known.
    """
    for literal in sorted(set(literals), key=len, reverse=True):
        text = text.replace(literal, "[secret]")
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    home, host = str(Path.home()), platform.node()
    text = text.replace(home, "~") if len(home) > 1 else text
    return text.replace(host, "[host]") if len(host) > 3 else text


def known_secrets(home: Path) -> Iterator[str]:
    """Values that must not leave this machine: of the environment, by their names, and the twin's own."""
    for name, value in os.environ.items():
        if len(value) >= 6 and re.search(r"(?i)secret|token|passw|key|credential", name):
            yield value
    try:
        state = json.loads((home / "state.json").read_text("utf-8"))
    except (OSError, ValueError):
        return
    yield from (str(value) for name, value in state.items() if name == "secret" and value)


def write(file: Path, report: str, root: Path, home: Path) -> list[str]:
    """Write the bundle.

    Args:
        file: A zip file, made anew.
        report: What the doctor found.
        root: The repository.
        home: The twin's state folder; only logs are taken from it.

    Returns:
        Names of the files in it.

    Raises:
        OSError: It cannot be written.
    """
    versions = "\n".join(sorted({f"{each.name} {each.version}" for each in distributions()}))
    texts = {"doctor.txt": report, "versions.txt": f"{platform.platform()}, {platform.python_version()}\n{versions}\n"}
    paths = {path.relative_to(root).as_posix(): path for pattern in _FILES for path in root.glob(pattern)}
    paths |= {f"twin/{name}.log": path for name, path in log_files.find(home, "").items()}
    for name, path in paths.items():
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as stream:
                stream.seek(max(0, path.stat().st_size - LOG_BYTES) if path.suffix == ".log" else 0)
                texts[name] = stream.read(2 * LOG_BYTES).decode(errors="replace")
    secrets = list(known_secrets(home))
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, redacted(text, secrets))
    return list(texts)
