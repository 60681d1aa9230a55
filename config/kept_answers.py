"""Answers that follow from files' contents alone, kept from one synth to the next: finding them takes long."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Beside what jsii unpacks: it goes with the environment, and is no part of the project.
FILE = Path(sys.prefix) / "edgewright-synth.json"
_MOST = 256


class KeptAnswers:
    """Answers by a digest of the question, of the code that answers, and of the files that it reads."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._lock = threading.Lock()

    def keep_in(self, file: Path) -> None:
        """Say where answers are kept; until then none is.

        Args:
            file: Where. What is no such file counts as empty; one that cannot be written stays as it is.
        """
        self._file = file

    def ask(self, question: str, files: Mapping[str, Path], code: Path, find: Callable[[], Any]) -> Any:
        """Give the kept answer, or find it and keep it.

        Args:
            question: What is asked, with all that the answer depends on besides the files.
            files: Name to the file, of all that are read.
            code: The module that answers: another version of it is asked anew.
            find: Finds the answer, of JSON's types. What it raises is not kept, nor is None.

        Returns:
            The answer, or what JSON makes of it.
        """
        if self._file is None:
            return find()
        parts = [question, *(part for name in sorted(files) for part in (name, _digest(files[name]))), _digest(code)]
        key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()
        kept = _read(self._file)
        if key in kept:
            return kept[key]
        answer = find()
        if answer is not None:
            self._keep(self._file, key, answer)
        return answer

    def _keep(self, file: Path, key: str, answer: Any) -> None:
        partial = file.with_name(f"{file.name}.{os.getpid()}")
        with self._lock, suppress(OSError):
            # The oldest make room; what another synth writes meanwhile may be lost, and is found once more.
            newest = [*_read(file).items(), (key, answer)][-_MOST:]
            try:
                partial.write_text(json.dumps(dict(newest)), encoding="utf-8")
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)


def _read(file: Path) -> dict[str, Any]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


#: Those of this process; `app.py` says where they are kept.
KEPT = KeptAnswers()
