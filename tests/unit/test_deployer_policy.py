"""What a run of the deployer's policy begins with."""

from pathlib import Path
from typing import Any

import pytest

from tools import deployer_policy, least_privilege
from twin import lifecycle


class StartedError(Exception):
    """The twin would start now."""


def test_a_run_begins_without_what_an_interrupted_one_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / "home" / "state" / "iam.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"users": ["deployer"]}')
    (tmp_path / "home" / "lifecycle.lock").touch()

    def start(home: Path, **_options: Any) -> None:
        assert not (home / "state").exists()
        raise StartedError

    monkeypatch.setattr(lifecycle, "start", start)
    with pytest.raises(StartedError):
        deployer_policy.run(tmp_path)


@pytest.mark.parametrize(("tool", "name"), [(deployer_policy, "home"), (least_privilege, "twin")])
def test_a_folder_that_is_no_twins_is_kept_and_told(
    tool: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As `/home` is for `--out /`, and the sources of the twin for `--out .`.
    letter = tmp_path / name / "alice" / "letter.txt"
    letter.parent.mkdir(parents=True)
    letter.write_text("dear")
    monkeypatch.setattr(lifecycle, "start", lambda *_, **__: pytest.fail("the twin was started"))

    with pytest.raises(SystemExit, match="1"):
        tool.main(tmp_path)

    assert letter.read_text() == "dear"
    said = f"must be a twin's state folder, got {tmp_path / name}, in which no twin made alice: nothing was deleted"
    assert said in capsys.readouterr().err
