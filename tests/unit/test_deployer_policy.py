"""What a run of the deployer's policy begins with."""

from pathlib import Path
from typing import Any

import pytest

from tools import deployer_policy
from twin import lifecycle


class StartedError(Exception):
    """The twin would start now."""


def test_a_run_begins_without_what_an_interrupted_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "home" / "state" / "iam.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"users": ["deployer"]}')

    def start(home: Path, **_options: Any) -> None:
        assert not (home / "state").exists()
        raise StartedError

    monkeypatch.setattr(lifecycle, "start", start)
    with pytest.raises(StartedError):
        deployer_policy.run(tmp_path)
