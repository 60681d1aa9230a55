"""What keeps two demos apart."""

from pathlib import Path

import pytest
import typer

from tools.demo import alone


def test_one_demo_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "run"):
        with pytest.raises(typer.BadParameter, match="one demo at a time"), alone(tmp_path / "run"):
            pass
        with alone(tmp_path / "other"):
            pass

    with alone(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(typer.BadParameter, match=r"must be writable, got .*file/run"), alone(tmp_path / "file" / "run"):
        pass
