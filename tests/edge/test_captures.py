import errno
import itertools
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_component import BackOff
from edge_inference import captures
from edge_inference.captures import GATHER_S, WAITING, CaptureFolder, CaptureQueue, CaptureUpload
from edge_inference.messages import Prediction, Request, Score
from edge_inference.settings import ModelSettings, ServiceSettings, parse
from tests.edge.local_device import configuration
from tests.edge.publications import Pauses

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
JPEG, PNG = b"\xff\xd8jpeg", b"\x89PNGpng"
SURE, UNSURE = Prediction("1.0.0", [Score("7", 0.9)]), Prediction("1.0.0", [Score("7", 0.4)])


def serving(**changes: object) -> ModelSettings:
    return parse(configuration(**changes))["digits"]


class FakeStore:
    """An S3 that can refuse."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.failure: OSError | None = None

    def put(self, bucket: str, key: str, body: bytes) -> None:
        assert bucket == "bucket"
        if self.failure:
            raise self.failure
        self.objects[key] = body


class Bench:
    def __init__(self, path: Path) -> None:
        self.folder = CaptureFolder(path / "captures")
        self.captures = CaptureQueue(self.folder, "thing-1", chance=lambda: 0.5)
        self.store = FakeStore()
        self.now = 0.0
        self.upload = CaptureUpload(self.captures, self.folder, lambda: self.store, "thing-1", lambda: self.now)
        self.upload.settings = ServiceSettings(capture_bucket="bucket")

    def capture(self, request: Request, prediction: Prediction = SURE, limit: int = 1 << 20) -> bool:
        self.captures.settings = ServiceSettings(capture_bytes=limit)
        self.captures.offer(serving(captureShare=1), request, prediction)
        return self.captures.write_next(0)

    def keep(self, identifier: str, moment: datetime, **record: object) -> Exception | None:
        """Have a record of another part written; gives what it is told."""
        told: list[Exception | None] = []
        self.captures.keep("m", identifier, moment, record, told.append)
        assert told == []
        assert self.captures.write_next(0)
        (outcome,) = told
        return outcome


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture
def _within_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures of one test are one batch, also where the real hour ends between them."""
    moments = (MOMENT + timedelta(milliseconds=number) for number in itertools.count())
    clock = SimpleNamespace(now=lambda _zone: next(moments), strptime=datetime.strptime)
    monkeypatch.setattr(captures, "datetime", clock)


@pytest.mark.parametrize(
    ("changes", "prediction", "kept"),
    [
        ({}, SURE, False),
        ({"captureShare": 0.6}, SURE, True),
        ({"captureShare": 0.4}, SURE, False),
        ({"captureBelow": 0.5}, SURE, False),
        ({"captureBelow": 0.5}, UNSURE, True),
        ({"captureBelow": 0.5}, Prediction("1", outputs={"y": [1]}), False),
    ],
)
def test_keeps_a_share_and_what_the_model_is_unsure_of(
    bench: Bench, changes: dict[str, object], prediction: Prediction, kept: bool
) -> None:
    bench.captures.offer(serving(**changes), Request("id", index=1), prediction)

    assert bench.captures.write_next(0) is kept


@pytest.mark.usefixtures("_within_an_hour")
def test_uploads_records_as_json_lines_with_their_pictures(bench: Bench) -> None:
    bench.capture(Request("a", image=JPEG))
    bench.capture(Request("b", image=PNG))
    bench.capture(Request("c", features=[1.0, 2.0]))

    bench.upload.upload()

    keys = sorted(bench.store.objects)
    assert all(key.startswith("captures/thing-1/digits/20") for key in keys)
    (lines,) = [key for key in keys if key.endswith(".jsonl")]
    records = [json.loads(line) for line in bench.store.objects[lines].splitlines()]
    assert [record["request_id"] for record in records] == ["a", "b", "c"]
    folder = lines.rsplit("/", 1)[0]
    assert bench.store.objects[f"{folder}/{records[0]['picture']}"] == JPEG
    assert records[1]["picture"].endswith(".png")
    assert records[2]["input"] == {"features": [1.0, 2.0]}
    assert records[0]["output"] == {"top_k": [{"label": "7", "probability": 0.9}]}
    assert (records[0]["reason"], records[0]["device"]) == ("sampled", "thing-1")
    assert bench.folder.waiting() == []
    assert bench.upload.counts() == {"uploaded": 3, "dropped": 0}


def test_a_refusing_s3_is_asked_again_and_nothing_is_lost(bench: Bench) -> None:
    bench.capture(Request("a", image=JPEG))
    bench.store.failure = OSError("403 AccessDenied")
    bench.upload.upload()
    assert bench.upload.counts()["problem"] == "403 AccessDenied"
    assert len(bench.folder.waiting()) == 1

    bench.store.failure = None
    again = CaptureUpload(bench.captures, CaptureFolder(bench.folder.path), lambda: bench.store, "thing-1", lambda: 0)
    again.settings = ServiceSettings(capture_bucket="bucket")
    again.upload()

    assert again.uploaded == 1
    assert bench.folder.waiting() == []


def test_pauses_between_uploads_begin_anew_once_one_has_worked_and_its_problem_is_over(bench: Bench) -> None:
    bench.upload._back_off = pauses = Pauses()  # type: ignore[assignment]
    refusal = OSError("403 AccessDenied")
    for failure in (refusal, refusal, None, refusal):
        bench.store.failure = failure
        bench.capture(Request("a", image=JPEG))
        bench.upload.upload()
        assert ("problem" in bench.upload.counts()) is (failure is not None)

    assert pauses.asked == [1, 2, 1]


def test_a_failed_upload_waits_for_its_pause_a_backlog_not_at_all_and_new_records_for_others(bench: Bench) -> None:
    bench.upload._back_off = BackOff(300, 300)
    bench.folder.add("digits", "1", {}, None, MOMENT, 1 << 20)
    bench.folder.add("iris", "2", {}, None, MOMENT, 1 << 20)
    waits = []
    for failure in (OSError("503"), None, None):
        bench.now, bench.store.failure = bench.now + 1000, failure
        bench.upload.upload()
        waits.append(bench.upload._next_s - bench.now)

    assert waits[0] >= 150
    assert waits[1:] == [0, GATHER_S]


def test_nothing_is_uploaded_without_a_bucket(bench: Bench) -> None:
    bench.upload.settings = ServiceSettings()
    bench.capture(Request("a", image=JPEG))

    bench.upload.upload()

    assert (bench.store.objects, len(bench.folder.waiting())) == ({}, 1)


def test_a_batch_holds_one_model_and_one_hour(bench: Bench) -> None:
    for number, hours in enumerate((0, 0, 1)):
        bench.folder.add("digits", f"{number}", {}, None, MOMENT + timedelta(hours=hours, seconds=number), 1 << 20)
    bench.folder.add("iris", "9", {}, None, MOMENT + timedelta(hours=2), 1 << 20)

    for _ in range(3):
        bench.upload.upload()

    assert sorted(bench.store.objects) == [
        "captures/thing-1/digits/2026/03/04/05/0.jsonl",
        "captures/thing-1/digits/2026/03/04/06/2.jsonl",
        "captures/thing-1/iris/2026/03/04/07/9.jsonl",
    ]


def test_nothing_is_left_of_a_record_that_the_disk_did_not_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_new: Path, _target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            bench.folder.add("digits", "1", {}, b"picture", MOMENT, 1 << 20)

    assert not list(bench.folder.path.iterdir())


def test_a_full_folder_drops_the_oldest_first(bench: Bench) -> None:
    for number in range(6):
        bench.capture(Request(str(number), image=JPEG + bytes(1000)), limit=5000)

    left = [json.loads(capture.record.read_text())["request_id"] for capture in bench.folder.waiting()]
    assert left == ["3", "4", "5"] or left == ["2", "3", "4", "5"]
    assert bench.folder.dropped == 6 - len(left)
    assert sum(file.stat().st_size for file in bench.folder.path.iterdir()) <= 5000


def test_remains_of_a_killed_write_do_not_count_for_ever(bench: Bench) -> None:
    bench.folder.path.mkdir()
    (bench.folder.path / ".20260304T050607000000.digits.x").write_bytes(bytes(9000))

    bench.capture(Request("a"), limit=2000)

    assert sum(file.stat().st_size for file in bench.folder.path.iterdir()) <= 2000


def test_a_disk_that_cannot_be_written_costs_the_capture_only(tmp_path: Path) -> None:
    (tmp_path / "captures").write_text("not a folder")
    bench = Bench(tmp_path)

    assert bench.capture(Request("a", image=JPEG))

    assert bench.captures.dropped == 1


def test_never_holds_up_an_answer(bench: Bench) -> None:
    for _ in range(WAITING + 3):
        bench.captures.offer(serving(captureShare=1), Request("a"), SURE)

    assert bench.captures.dropped == 3
    while bench.captures.write_next(0):
        pass
    bench.captures.offer(serving(captureShare=1), Request("a"), SURE)
    assert bench.captures.dropped == 3, "there is room again"


def test_the_thread_uploads_until_it_is_closed(bench: Bench) -> None:
    bench.capture(Request("a"))
    bench.now = 100.0
    put = bench.store.put

    def put_once(bucket: str, key: str, body: bytes) -> None:
        put(bucket, key, body)
        bench.upload.close()

    bench.store.put = put_once  # type: ignore[method-assign]
    bench.upload.run()

    assert len(bench.store.objects) == 1


def test_a_file_that_is_no_capture_does_not_stop_the_upload(bench: Bench) -> None:
    assert bench.capture(Request("1", index=1))
    for name in ("notes.json", "a.b.c.json", "x.y.json.part"):
        (bench.folder.path / name).write_text("{}")
    bench.now = 10

    bench.upload.upload()

    assert len(bench.store.objects) == 1
    assert bench.upload.uploaded == 1


def test_records_of_others_lie_and_travel_with_the_devices_own(bench: Bench) -> None:
    assert bench.keep("id-1", MOMENT, x=1) is None
    assert bench.keep("id-2", MOMENT.replace(year=1), x=2) is None
    for moment in (10, 20):
        bench.now = moment
        bench.upload.upload()

    assert "captures/thing-1/m/2026/03/04/05/id-1.jsonl" in bench.store.objects
    assert [json.loads(body)["x"] for body in bench.store.objects.values()] == [1, 2]
    assert bench.folder.waiting() == []


def test_records_of_others_count_for_the_bound_after_a_restart_too(bench: Bench) -> None:
    for number in range(10):
        if number == 5:
            bench.captures = CaptureQueue(CaptureFolder(bench.folder.path), "thing-1")
        bench.captures.settings = ServiceSettings(capture_bytes=3000)
        assert bench.keep(f"id-{number}", MOMENT + timedelta(seconds=number), x="y" * 1000) is None

    assert [capture.record.name.split(".")[2] for capture in bench.folder.waiting()] == ["id-8", "id-9"]


def test_what_others_are_told_to_be_on_disk_outlives_a_power_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        sync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

    monkeypatch.setattr(os, "fsync", noted)
    bench.capture(Request("a", image=JPEG))  # nobody is told
    assert synced == []

    assert bench.keep("id-1", MOMENT, x=1) is None

    assert synced == [b'{"id":"id-1","x":1}']


def test_a_record_larger_than_the_bound_is_told_and_costs_no_other(bench: Bench) -> None:
    bench.captures.settings = ServiceSettings(capture_bytes=3000)
    assert bench.keep("id-1", MOMENT, x="y" * 1000) is None

    problem = bench.keep("id-2", MOMENT, x="y" * 4000)

    assert isinstance(problem, ValueError)
    assert str(problem).startswith("a capture must have at most 3000 bytes, got 40")
    assert bench.capture(Request("a", image=JPEG + bytes(4000)), limit=3000)
    assert bench.captures.dropped == 1
    assert [capture.record.name.split(".")[2] for capture in bench.folder.waiting()] == ["id-1"]


def test_a_record_that_cannot_be_written_leaves_nothing_and_is_told_and_the_next_one_is_kept(bench: Bench) -> None:
    bench.folder.path.write_text("in the way")
    assert isinstance(bench.keep("id-1", MOMENT, x=1), OSError)
    bench.folder.path.unlink()

    # What is no JSON, too.
    assert isinstance(bench.keep("id-2", MOMENT, x=object()), TypeError)
    assert bench.keep("id-3", MOMENT, x=1) is None

    assert [file.name.split(".")[2] for file in bench.folder.path.iterdir()] == ["id-3"]


@pytest.mark.usefixtures("_within_an_hour")
def test_a_capture_that_makes_room_while_its_batch_is_on_its_way_costs_nothing_else(bench: Bench) -> None:
    bench.capture(Request("a", image=JPEG))
    bench.capture(Request("b", image=JPEG))
    put = bench.store.put

    def put_and_lose(bucket: str, key: str, body: bytes) -> None:
        put(bucket, key, body)
        for capture in bench.folder.waiting()[1:]:
            bench.folder.remove(capture)

    bench.store.put = put_and_lose  # type: ignore[method-assign]
    bench.upload.upload()

    assert bench.upload.counts() == {"uploaded": 1, "dropped": 0}
    (lines,) = [body for key, body in bench.store.objects.items() if key.endswith(".jsonl")]
    assert [json.loads(line)["request_id"] for line in lines.splitlines()] == ["a"]
    assert bench.folder.waiting() == []


@pytest.mark.parametrize("failing", ["put", "waiting", "remove"])
def test_whatever_an_upload_fails_of_it_is_told_and_tried_again(
    bench: Bench, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.capture(Request("a", index=3))

    def fail(*_: object) -> None:
        raise PermissionError("read-only") if failing == "remove" else RuntimeError("AWS_ERROR_AUTH")

    with monkeypatch.context() as patched:
        patched.setattr(bench.store if failing == "put" else bench.folder, failing, fail)
        bench.upload.upload()
    assert bench.upload.counts()["problem"] == ("read-only" if failing == "remove" else "AWS_ERROR_AUTH")
    bench.upload.upload()

    assert len(bench.store.objects) == 1
    assert (bench.folder.waiting(), bench.upload.problem) == ([], "")
