"""Starts the longest test files first: a worker that begins one of them last works on while the others have ended.

UPDATE_DURATIONS=1 make test     measures the files again
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

DURATIONS = Path(__file__).with_name("durations.json")
#: What a shorter file takes does not matter to the order.
LEAST_S = 2


class LongestFirst:
    """Orders a session's files by how long they took when they were measured."""

    def __init__(self, config: pytest.Config) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        if hasattr(config.option, "loadscopereorder"):
            # By itself xdist begins with the files of the most tests, which are the quick ones.
            config.option.loadscopereorder = False

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Sort the files, not the tests in them; every worker does it in the same way."""
        seconds = json.loads(DURATIONS.read_text(encoding="utf-8"))
        items.sort(key=lambda item: -seconds.get(_file(item.nodeid), 0))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what the files take, their fixtures included."""
        self._seconds[_file(report.nodeid)] += report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the durations down if that was asked for."""
        if os.environ.get("UPDATE_DURATIONS") != "1" or hasattr(session.config, "workerinput"):
            return
        known: dict[str, float] = json.loads(DURATIONS.read_text(encoding="utf-8"))
        measured = {**known, **{file: round(seconds, 1) for file, seconds in self._seconds.items()}}
        kept = {
            file: seconds
            for file, seconds in sorted(measured.items(), key=lambda item: -item[1])
            if seconds >= LEAST_S and (session.config.rootpath / file).is_file()
        }
        DURATIONS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _file(nodeid: str) -> str:
    return nodeid.split("::")[0]
