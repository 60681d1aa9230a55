"""Asking the fleet, with a fleet that answers in this process."""

import base64
import io
import json
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from config.loader import load_stage
from config.names import Names
from config.stage import Stage
from twin import TwinError, predict
from twin.pictures import fitted, half_blocks

STAGE, NAMES = load_stage("twin"), Names("twin")
Asked = dict[str, Any]


class Fleet:
    """Answers what is published, before publish returns."""

    def __init__(self, answers: Callable[[Asked], list[bytes]]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Asked]] = []
        self.heard: dict[str, queue.SimpleQueue[bytes]] = {}

    def publish(self, topic: str, payload: bytes) -> None:
        self.asked.append((topic, json.loads(payload)))
        for answer in self.answers(self.asked[-1][1]):
            self.heard[topic.replace("/request", "/response")].put(answer)

    @contextmanager
    def listen(self, topic: str) -> Iterator[queue.SimpleQueue[bytes]]:
        self.heard[topic] = queue.SimpleQueue()
        yield self.heard[topic]


def answer(request: Asked, **more: Any) -> bytes:
    scores = [{"label": "7", "probability": 0.998}]
    content = {"request_id": request["request_id"], "device": "d1", "label": "7", "latency_ms": 0.21, "top_k": scores}
    return json.dumps({**content, "model": {"name": "digits", "version": "1.2.3"}, **more}).encode()


def ask_for(stage: Stage, model: str | None, **given: Any) -> predict.Question:
    subjects = {"index": None, "image": None, "features": None, "inputs": None, **given}
    return predict.question(stage, model, **subjects)


def picture(width: int, height: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def test_takes_its_own_answer_among_others() -> None:
    fleet = Fleet(lambda asked: [b"no json", b"[]", answer({"request_id": "somebody's"}), answer(asked, device="d2")])

    found = predict.ask(fleet, NAMES, ask_for(STAGE, "digits", index=7), 30)

    assert found["device"] == "d2"
    assert fleet.asked[0][0] == "edgewright/twin/digits/request"
    assert fleet.asked[0][1]["index"] == 7


def test_silence_ends_in_time_and_names_model_and_stage() -> None:
    with pytest.raises(TwinError, match=r"digits of stage twin must answer within 0\.05 s, it did not"):
        predict.ask(Fleet(lambda _asked: []), NAMES, ask_for(STAGE, "digits", index=7), 0.05)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("digit", {"index": 1}, "MODEL must be one that stage twin lists: digits, iris, .*, got digit"),
        (None, {"index": 1}, "got none"),
        ("digits", {}, "one of --index, --image, --features, --inputs must be given, got none"),
        ("digits", {"index": 1, "features": "[1]"}, "got --index and --features"),
        ("iris", {"features": "{a: 1}"}, "--features must be JSON in quotes of the shell"),
        ("iris", {"inputs": f'{{"x": [{"1, " * 2000}1]}}'}, "at most 5000 bytes, got about .*: raise --message-bytes"),
        ("digits", {"image": Path("/nowhere.png")}, "--image must be a readable file, got /nowhere.png: No such file"),
        ("digits", {"image": Path(__file__)}, "--image must be a picture, got test_predict.py"),
    ],
)
def test_says_before_it_connects_what_cannot_be_asked(model: str | None, given: Asked, message: str) -> None:
    with pytest.raises(TwinError, match=message):
        ask_for(STAGE, model, **given)


def test_a_sample_comes_with_its_picture_and_its_label() -> None:
    asked = ask_for(STAGE, "digits", index=7)

    with Image.open(io.BytesIO(asked.picture)) as found:
        assert found.size == (8, 8)
    assert asked.note.startswith("sample 7 is ")


def test_rows_and_tensors_are_sent_as_they_are() -> None:
    assert ask_for(STAGE, "iris", features='{"sepal_length": 5.1}').request == {"features": {"sepal_length": 5.1}}
    assert ask_for(STAGE, "iris", inputs='{"x": [[1]]}').request == {"inputs": {"x": [[1]]}}


def test_a_picture_that_fits_is_sent_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture(8, 8))

    asked = ask_for(STAGE, "digits", image=file)

    assert base64.b64decode(asked.request["image"]) == file.read_bytes()
    assert asked.note == ""


@pytest.mark.parametrize("longest", [predict.LONGEST, predict.MESSAGE_BYTES])
def test_a_photograph_is_scaled_to_what_devices_take(longest: int, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(picture(800, 600))
    fleet = Fleet(lambda asked: [answer(asked)])

    asked = ask_for(STAGE, "digits", image=file, longest=longest)
    predict.ask(fleet, NAMES, asked, 30)

    topic, message = fleet.asked[0]
    assert longest / 3 < len(topic) + len(json.dumps(message, separators=(",", ":"))) < longest
    assert asked.note.startswith("photo.png (PNG, 800 x 600, ")


def test_formats_that_devices_refuse_are_sent_as_jpeg() -> None:
    sent, note = fitted(picture(32, 32, "GIF", "P"), "a.gif", 10_000)

    assert sent.startswith(b"\xff\xd8")
    assert "a.gif (GIF, 32 x 32" in note


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    stream = io.BytesIO()
    values = np.linspace(0, 65535, 256).astype(np.uint16).repeat(2)
    Image.fromarray(np.tile(values, (512, 1))).save(stream, kind)

    sent, _ = fitted(stream.getvalue(), "deep", 1_500)

    row = np.asarray(Image.open(io.BytesIO(sent)).resize((5, 1)))[0]
    np.testing.assert_allclose(row, [25, 76, 127, 178, 229], atol=4)
    assert "48;2;255;255;255" not in half_blocks(stream.getvalue()).splitlines()[0].split("▀")[10]


def test_what_is_no_picture_for_a_device_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(stream, "TIFF")

    with pytest.raises(TwinError, match="must have 8 or 16 bits a value, got a of floats"):
        fitted(stream.getvalue(), "a", 10_000)

    def load(_picture: object) -> None:
        raise RuntimeError("Failed to decode frame 0")  # as Pillow's decoder of AVIF does

    monkeypatch.setattr("PIL.TiffImagePlugin.TiffImageFile.load", load)
    with pytest.raises(TwinError, match="must be a picture, got a: Failed to decode frame 0"):
        fitted(stream.getvalue(), "a", 10_000)


def test_a_sample_is_shown_as_the_folder_says_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "MODELS", tmp_path)
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "model.json").write_text('{"labels": "labels.txt", "samples": {"file": "samples.npz"}}')
    (folder / "labels.txt").write_text("cat\ndog\n")
    np.savez(folder / "samples.npz", images=np.array([[[0, 1.0]]]), labels=np.array([1]))

    shown, label = predict.sample_of("shared", 0)

    assert label == "dog"
    assert np.asarray(Image.open(io.BytesIO(shown))).tolist() == [[0, 255]]
    (folder / "samples.npz").write_bytes(b"PK\x03\x04")
    predict.sample_of.cache_clear()
    predict.samples_of.cache_clear()
    assert predict.sample_of("shared", 0) == (b"", "")


def test_draws_two_pixels_a_character() -> None:
    lines = half_blocks(picture(8, 8)).splitlines()

    assert len(lines) == 8  # 8 pixels twice as large, two a line
    assert lines[0].count("▀") == 16


def test_watches_answers_and_results_of_files_until_enough_came() -> None:
    fleet = Fleet(lambda _asked: [])
    heard = predict.watch(fleet, STAGE, ["digits", "image-classification"], 2)
    lines = []
    results = {"inference-description": "a photograph", "inference-results": [{"Label": "cat", "Score": 0.5}]}
    with pytest.MonkeyPatch.context() as patch:
        # The pause between two looks is when something comes.
        arriving = iter([(NAMES.response_topic("digits"), answer({"request_id": "a"})), (PICTURES, encoded(results))])
        patch.setattr(
            "twin.predict.time.sleep", lambda _s: (lambda come: fleet.heard[come[0]].put(come[1]))(next(arriving))
        )
        lines = [predict.line_of(*each) for each in heard]

    assert [line.partition(" ")[2] for line in lines] == [
        "d1: 7 0.998 (0.21 ms)",
        f"{PICTURES}: cat 0.500 (a photograph)",
    ]


PICTURES = "gg/sageMakerEdgeManager/image-classification"


def encoded(content: object) -> bytes:
    return json.dumps(content).encode()


@pytest.mark.parametrize("message", [b"\xff", b"[]", b"{}", b'{"error": 1}', b'{"top_k": 3}'])
def test_a_strange_message_is_shown_as_it_is(message: bytes) -> None:
    assert message[:1].decode(errors="replace") in predict.line_of("a/b", message)


def test_prints_what_the_device_said_and_the_notice() -> None:
    console = Console(file=io.StringIO(), width=100)

    predict.show(console, ask_for(STAGE, "digits", index=7), json.loads(answer({"request_id": "a"}, notice="n")), 0.01)

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "d1 says (digits 1.2.3): 7" in text
    assert "0.21 ms on the device, 10 ms there and back" in text
    assert "notice: n" in text


class Account:
    """What the reason for silence is looked for in."""

    def __init__(self, groups: list[str], cores: list[str]) -> None:
        self.groups, self.cores = groups, cores

    def list_thing_groups(self, **_arguments: str) -> Any:
        return {"thingGroups": [{"groupName": group} for group in self.groups]}

    def list_things_in_thing_group(self, **_arguments: Any) -> Any:
        return {"things": ["d1"]}

    def list_core_devices(self) -> Any:
        return {"coreDevices": [{"coreDeviceThingName": core, "status": "UNHEALTHY"} for core in self.cores]}

    def list_effective_deployments(self, **_arguments: str) -> Any:
        return {"effectiveDeployments": [{"coreDeviceExecutionStatus": "FAILED", "reason": "no room"}]}


def test_a_label_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = json.loads(answer({"request_id": "a"})) | {"top_k": [{"label": "[/red] :x:", "probability": 0.5}]}

    predict.show(predict._console(), ask_for(STAGE, "digits", index=7), said, 0.01)

    assert "[/red] :x:" in capsys.readouterr().out


def test_a_message_that_is_too_long_for_nucleus_lite_is_a_reason_of_silence() -> None:
    asked = ask_for(STAGE, "iris", inputs=json.dumps({"x": [1] * 3000}), longest=predict.MESSAGE_BYTES)

    with pytest.raises(TwinError, match=r"the message has about .* bytes, nucleus lite takes 5000"):
        predict.ask_and_show(
            lambda: nullcontext(Fleet(lambda _asked: [])),
            lambda _service: Account([], []),
            STAGE,
            asked,
            timeout_s=0.05,
            as_json=False,
        )


@pytest.mark.parametrize(
    ("groups", "cores", "text"),
    [
        (["edgewright-twin-2"], [], "stage twin is not deployed there: npx cdk deploy -c stage=twin --all"),
        (["edgewright-twin"], ["of-another-stage"], "no device of the stage has joined yet"),
        (["edgewright-twin"], ["d1"], "d1 is UNHEALTHY, deployments: FAILED no room"),
    ],
)
def test_silence_is_explained(groups: list[str], cores: list[str], text: str) -> None:
    assert predict.why_silent(lambda _service: Account(groups, cores), NAMES).startswith(text)
