import os
import queue
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_inference import files
from edge_inference.files import BATCH, FileJob, FileSource
from edge_inference.settings import ModelSettings
from tests.edge.file_bench import RESULTS, Bench, digit, serving
from tests.edge.model_folder import DIGITS


def names(source: FileSource, settings: ModelSettings, package: Path, now: float) -> list[str]:
    return [job.path.name for job in source.due(settings, package, now)]


def test_a_file_is_due_at_the_start_at_its_interval_and_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"1")
    source, settings = FileSource(), serving(ImageName="image.jpg", InferenceInterval=10)

    assert [names(source, settings, tmp_path, now) for now in (0, 1, 9.9)] == [["image.jpg"], [], []]
    assert [names(source, settings, tmp_path, now) for now in (10, 11)] == [["image.jpg"], []]
    os.utime(tmp_path / "image.jpg", ns=(1, 1))
    assert names(source, settings, tmp_path, 12) == ["image.jpg"]


def test_an_interval_of_0_is_once_and_a_new_name_counts_anew(tmp_path: Path) -> None:
    source = FileSource()
    once = serving(ImageName="a.jpg", InferenceInterval="0")

    assert [names(source, once, tmp_path, now) for now in (0, 10**9)] == [["a.jpg"], []]
    assert names(source, serving(ImageName="b.jpg", ImageDirectory="/pictures"), tmp_path, 1) == ["b.jpg"]
    assert names(source, serving(), tmp_path, 2) == []
    assert names(source, once, tmp_path, 3) == ["a.jpg"]


def test_a_file_that_is_no_longer_asked_for_is_new_when_it_is_asked_for_again(tmp_path: Path) -> None:
    (tmp_path / "image.jpg").write_bytes(b"")
    source, asked = FileSource(), serving(ImageName="image.jpg")

    due = [len(list(source.due(settings, tmp_path, 0))) for settings in (asked, asked, serving(), asked)]

    assert due == [1, 0, 0, 1]


def test_a_watched_folder_gives_complete_files_in_order_and_not_all_at_once(tmp_path: Path) -> None:
    for number in range(BATCH + 2):
        (tmp_path / f"{number:03}.png").write_bytes(b"")
    for name in (".hidden", "x.part", "x.tmp", "x.failed"):
        (tmp_path / name).write_bytes(b"")
    settings = serving(WatchDirectory=str(tmp_path))

    assert names(FileSource(), settings, tmp_path, 0) == [f"{number:03}.png" for number in range(BATCH)]
    assert names(FileSource(), serving(WatchDirectory="/nowhere"), tmp_path, 0) == []


def test_a_file_that_stays_where_it_is_is_told_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A folder in a file's place cannot be removed as one, and in the place of the new name nothing can be put.
    (tmp_path / "1.png").mkdir()
    (tmp_path / "2.png").write_bytes(b"")
    (tmp_path / "2.png.failed" / "x").mkdir(parents=True)

    FileJob(tmp_path / "1.png", watched=True).done()
    FileJob(tmp_path / "2.png", watched=True).failed()
    FileJob(tmp_path / "gone.png", watched=True).failed()

    assert "1.png stays and is left alone until it changes, it cannot be removed" in caplog.text
    assert "2.png stays and is left alone until it changes, it cannot be put aside" in caplog.text
    assert "gone.png" not in caplog.text


def test_a_watched_file_stays_until_its_result_is_safe(make: Callable[..., "Bench"], tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "1.json").write_text('{"index": 1}')
    bench = make(WatchDirectory=str(watched))
    deadline = time.monotonic() + 30
    while not bench.outbox.waiting:
        bench.endpoint.poll()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        bench.endpoint.poll()

    assert (watched / "1.json").exists(), "a kill now must not lose it"
    assert bench.outbox.waiting == 1, "and it is predicted once"
    bench.messages(1)
    assert not (watched / "1.json").exists()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bench]:
    return lambda **changes: Bench(tmp_path / "device", **changes)


def test_predicts_a_file_on_the_results_topic_in_the_form_of_edge_manager(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    (tmp_path / "seven.png").write_bytes(digit(0))
    bench = make(
        ImageName="seven.png",
        ImageDirectory=str(tmp_path),
        PublishResultsOnTopic=RESULTS,
        resultFormat="edge-manager",
        topK=5,
        threshold=0.3,
    )

    ((topic, result),) = bench.messages(1)

    assert topic == RESULTS
    assert result["inference-description"] == "Top 5 predictions with score 0.3 or above"
    assert [each["Label"] for each in result["inference-results"]] == ["7"]
    assert result["inference-results"][0]["Score"] > 0.9
    assert bench.endpoint.latencies.percentiles()["p50"] > 0


def test_a_watched_file_is_removed_when_its_result_is_safe_and_a_bad_one_put_aside(
    make: Callable[..., Bench], tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "1.png").write_bytes(digit(0))
    (watched / "2.png").write_bytes(b"no picture")
    os.utime(watched / "2.png", (1, 1))
    (watched / "3.json").write_text('{"index": 1}')
    bench = make(WatchDirectory=str(watched))

    messages = [message for _topic, message in bench.messages(3)]

    assert [message["request_id"] for message in messages] == ["1.png", "2.png", "3.json"]
    assert [message.get("label") for message in messages] == ["7", None, "6"]
    assert messages[1]["error"]["code"] == "InvalidImage"
    deadline = time.monotonic() + 30
    while sorted(file.name for file in watched.iterdir()) != ["2.png.failed"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_when_all_files_taken_are_done_more_are_asked_for_at_once(make: Callable[..., Bench], tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    for number in range(3):
        (watched / f"{number}.json").write_text('{"index": 1}')
    (watched / "3.txt").write_text("no picture")
    os.utime(watched / "3.txt", (1, 1))
    left: queue.Queue[list[str]] = queue.Queue()
    bench = make(WatchDirectory=str(watched))
    bench.endpoint._on_files_done = lambda: left.put(sorted(file.name for file in watched.iterdir()))

    bench.messages(4)

    assert left.get(timeout=30) == ["3.txt.failed"]
    assert left.empty(), "once for all four"


def test_a_file_that_cannot_be_taken_away_is_not_predicted_for_ever_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(BATCH + 1):
        (tmp_path / f"{number:02}.png").write_bytes(b"")
    source, settings = FileSource(), serving(WatchDirectory=str(tmp_path))

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(Path, "replace", refuse)
    jobs = list(source.due(settings, tmp_path, 0))
    for job in jobs[:-1]:
        job.done()
    jobs[-1].failed()

    assert names(source, settings, tmp_path, 0) == [f"{BATCH:02}.png"]
    os.utime(tmp_path / "00.png", (1, 1))
    assert names(source, settings, tmp_path, 0) == ["00.png", f"{BATCH:02}.png"]


@pytest.mark.parametrize("end", ["done", "failed"])
def test_a_file_that_was_written_anew_meanwhile_is_predicted_anew(tmp_path: Path, end: str) -> None:
    (tmp_path / "latest.png").write_bytes(b"old")
    source, settings = FileSource(), serving(WatchDirectory=str(tmp_path))
    (job,) = source.due(settings, tmp_path, 0)

    (tmp_path / ".new").write_bytes(b"new")
    (tmp_path / ".new").replace(tmp_path / "latest.png")
    getattr(job, end)()

    assert (tmp_path / "latest.png").read_bytes() == b"new"
    (again,) = source.due(settings, tmp_path, 0)
    getattr(again, end)()
    assert names(source, settings, tmp_path, 0) == []


def test_only_files_are_taken_out_of_a_watched_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("lost")
    (tmp_path / "link.png").symlink_to(DIGITS / "model.onnx")
    (tmp_path / "two\nlines é.png").write_bytes(b"")

    found = names(FileSource(), serving(WatchDirectory=str(tmp_path)), tmp_path, 0)

    assert found == ["link.png", "two\nlines é.png"]


def test_a_file_that_grows_slowly_is_predicted_when_it_is_whole(
    make: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLE_S", 600.0)  # to load the model may take longer than a writer has
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "slow.png").write_bytes(digit(0)[:40])
    bench = make(WatchDirectory=str(watched))
    for _ in range(20):
        bench.endpoint.poll()
        time.sleep(0.01)
    assert bench.outbox.waiting == 0, "its writer may not be done"
    (watched / "slow.png").write_bytes(digit(0))

    ((_topic, message),) = bench.messages(1)

    assert message["label"] == "7"
    assert bench.endpoint.counts.refused == 0


def test_a_bad_file_from_the_future_is_put_aside_at_once(make: Callable[..., Bench], tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "bad.png").write_bytes(b"no picture")
    # A camera whose clock is ahead, or a device whose clock was set back.
    ahead = time.time() + 86_400
    os.utime(watched / "bad.png", (ahead, ahead))
    bench = make(WatchDirectory=str(watched))

    ((_topic, failure),) = bench.messages(1)

    assert failure["error"]["code"] == "InvalidImage"
    assert [file.name for file in watched.iterdir()] == ["bad.png.failed"]


def test_a_missing_file_is_told_once_an_interval(make: Callable[..., Bench]) -> None:
    bench = make(ImageName="lost.jpg")

    ((_topic, message),) = bench.messages(1)

    assert "lost.jpg cannot be read: No such file" in message["error"]["message"]
