import os
from pathlib import Path

import pytest

from edge_inference.files import PICTURE_BYTES, read_file
from edge_inference.messages import ErrorCode, RequestError


def test_reads_a_picture_and_a_request(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"bytes")
    (tmp_path / "b.JSON").write_text('{"index": 1}')

    assert read_file(tmp_path / "a.png", 10).image == b"bytes"
    assert (read_file(tmp_path / "b.JSON", 100).index, read_file(tmp_path / "b.JSON", 100).request_id) == (1, "b.JSON")


@pytest.mark.timeout(30)
def test_a_pipe_that_nobody_writes_into_holds_nothing_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(RequestError, match="must be a regular file") as caught:
            read_file(path, 10)
        assert caught.value.code is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(("name", "limit"), [("large.png", PICTURE_BYTES), ("large.json", 10)])
def test_tells_the_size_of_a_file_that_is_too_large(tmp_path: Path, name: str, limit: int) -> None:
    with (tmp_path / name).open("wb") as stream:
        stream.truncate(limit + 5)

    with pytest.raises(RequestError, match=f"{name} must have at most {limit} bytes, got {limit + 5}") as caught:
        read_file(tmp_path / name, 10)
    assert caught.value.code is ErrorCode.REQUEST_TOO_LARGE
