"""What a device tells of drift: pictures that shift are told, 10,000 that do not are not, and few say nothing."""

from __future__ import annotations

import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_inference.heartbeat import Heartbeat
from edge_inference.messages import Request
from edge_inference.models.drift import (
    LEAST,
    LEAST_SAMPLES,
    REFERENCE_BYTES,
    WINDOW,
    DriftWindow,
    by_chance,
    measure,
    read_reference,
    stability_index,
)
from edge_inference.models.package import ModelPackageError, open_package
from tests.edge.file_bench import Bench, digit
from tests.edge.model_folder import DIGITS, make_package, point
from tools.model_folder import describe, load, package, write_reference

ALARM = 0.25
MODELS = DIGITS.parent
DRIFT = (DIGITS / "reference.json").read_bytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(package(ModelSource.read(DIGITS), tmp_path_factory.mktemp("digits") / "package"))


def add(window: DriftWindow, model: Any, request: Request) -> None:
    answer = model.predict(request, 3)
    window.add(model.package.reference, answer.confidence(0), answer.measures)


@pytest.mark.parametrize("name", ["digits", "iris", "digit-detector"])
def test_the_committed_references_are_what_the_committed_models_and_samples_make(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(MODELS / name, tmp_path / name)
    committed = json.loads((folder / "reference.json").read_text())
    (folder / "reference.json").unlink()

    list(write_reference(folder))

    made = json.loads((folder / "reference.json").read_text())
    assert (folder / "model.json").read_text() == (MODELS / name / "model.json").read_text()
    assert made["madeOf"] == committed["madeOf"]
    for ours, theirs in zip(made["statistics"], committed["statistics"], strict=True):
        assert ours["edges"] == pytest.approx(theirs["edges"], rel=1e-3)
        assert sum(ours["counts"]) == sum(theirs["counts"]) == made["samples"]


def test_ten_thousand_inputs_that_did_not_shift_stay_quiet(digits: Any) -> None:
    chosen = np.random.default_rng(0).integers(0, len(digits.samples), 10_000)
    window = DriftWindow()
    told = []

    for number, index in enumerate(chosen.tolist()):
        add(window, digits, Request(None, index=index))
        if number % 100 == 99 and (report := window.report()):
            told.append(report["highest"])

    assert len(told) == 99
    assert told == [0.0] * 99


def test_draws_of_the_same_population_stay_quiet_though_the_samples_are_few() -> None:
    # 45 samples as of iris, of which any other 1,000 inputs differ by chance.
    draws = np.random.default_rng(1)
    loudest = 0.0
    for _ in range(200):
        statistic = describe("features.x", draws.normal(size=45).tolist())
        found = np.bincount([statistic.place(value) for value in draws.normal(size=WINDOW)], minlength=4)
        index = stability_index(statistic.counts, found.astype(np.int64))
        loudest = max(loudest, index / by_chance(4, 45, WINDOW))

    assert 0.2 < loudest < 1


@pytest.mark.parametrize(
    ("shift", "most_of"),
    [
        (lambda pixels: pixels * 0.5, "picture."),  # half the light
        (lambda pixels: np.clip(pixels + 60, 0, 255), "picture."),  # fog
        (lambda pixels: pixels[:, ::-1], "confidence"),  # a mirror: the light is the same
    ],
)
def test_shifted_pictures_are_told_within_a_window(digits: Any, shift: Any, most_of: str) -> None:
    window = DriftWindow()
    for index in range(300):
        pixels = np.frombuffer(Image.open(io.BytesIO(digit(index))).tobytes(), np.uint8).reshape(8, 8).astype(float)
        stream = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(shift(pixels)).astype(np.uint8)).save(stream, "PNG")
        add(window, digits, Request(None, image=stream.getvalue()))

    report = window.report()

    assert report["highest"] > ALARM, report
    assert next(iter(report["psi"])).startswith(most_of), report


def test_pictures_as_clients_send_them_are_those_that_the_reference_was_made_of(digits: Any) -> None:
    window = DriftWindow()
    for index in range(360):
        add(window, digits, Request(None, image=digit(index)))

    report = window.report()

    assert report["highest"] == 0
    assert max(report["psi"].values()) < 0.02, report


def test_few_inputs_say_nothing_and_the_latest_thousand_count(digits: Any) -> None:
    window = DriftWindow()
    reference = digits.package.reference
    odd = dict.fromkeys((each.name for each in reference.statistics), 9.0)
    for _ in range(LEAST - 1):
        window.add(reference, None, odd)
    assert window.report() == {}

    window.add(reference, None, odd)
    assert window.report()["highest"] > ALARM

    for index in range(WINDOW):
        add(window, digits, Request(None, index=index % 360))
    assert window.report()["inputs"] == WINDOW
    assert window.report()["highest"] == 0


def test_another_version_of_the_model_starts_anew(digits: Any) -> None:
    window = DriftWindow()
    for _ in range(LEAST):
        window.add(digits.package.reference, 0.1, {})
    assert window.report()

    other = read_reference((DIGITS / "reference.json").read_bytes())
    window.add(other, 0.1, {})

    assert window.report() == {}


def test_a_statistic_of_one_value_tells_what_lies_beside_it() -> None:
    statistic = describe("features.on", [1.0] * 40)

    assert statistic.counts == (0, 40, 0)
    assert [statistic.place(value) for value in (0.9, 1.0, 1.1, -math.inf)] == [0, 1, 2, 0]


def test_measures_of_a_picture_do_not_depend_on_how_its_pixels_are_written() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (300, 500, 3), np.uint8)

    assert measure(pixels) == pytest.approx(measure(pixels.astype(np.float32) / 255), rel=1e-4)
    assert set(measure(np.zeros((5, 1, 1), np.uint8)).values()) == {0.0}
    assert list(measure(np.zeros(40), [str(number) for number in range(40)])) == [f"features.{n}" for n in range(32)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: "[]", "must be as"),
        (lambda found: "no json", "Expecting value"),
        (lambda found: " " * (REFERENCE_BYTES + 1), "at most 65536 bytes"),
        (lambda found: found | {"samples": LEAST_SAMPLES - 1}, "samples must be at least 30"),
        (lambda found: found | {"statistics": []}, "statistics must be confidence"),
        (lambda found: {"samples": 360}, "statistics is required"),
        (lambda found: found["statistics"][1].update(edges=[2, 1]) or found, "edges must be 1 to 10 ascending"),
        (lambda found: found["statistics"][1].update(edges=[math.nan]) or found, "edges must be"),
        (lambda found: found["statistics"][1].update(counts=[1]) or found, "counts must be one more"),
        (lambda found: found["statistics"][1].update(edges=[1], counts=[30, 10**308]) or found, "of 30 to"),
        (lambda found: found["statistics"].append(7) or found, "must be as"),
    ],
)
def test_a_package_whose_reference_is_none_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    changed = change(json.loads((DIGITS / "reference.json").read_text()))
    drift = (changed if isinstance(changed, str) else json.dumps(changed)).encode()
    folder = make_package(tmp_path / "package", drift=drift)

    with pytest.raises(ModelPackageError, match=told):
        open_package(folder)


def test_a_reference_of_another_model_is_refused_at_synth(tmp_path: Path) -> None:
    folder = shutil.copytree(DIGITS, tmp_path / "digits")
    shutil.copy(MODELS / "iris" / "samples.npz", folder / "samples.npz")

    with pytest.raises(ModelDeclarationError, match=r"made of model\.onnx, samples\.npz .* tools\.model reference"):
        ModelSource.read(folder)


def test_a_heartbeat_tells_the_drift_of_one_model_at_a_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "device")
    point(tmp_path / "device" / "current", make_package(tmp_path / "told", "1.1.0", drift=DRIFT))
    bench.store.refresh()
    heartbeat = Heartbeat("thing-1", bench.outbox)
    for index in range(LEAST):
        bench.endpoint.submit(json.dumps({"index": index % 3}).encode())
        bench.messages(1)

    message = json.loads(heartbeat.message([bench.endpoint]))

    assert message["drift"]["model"] == "digits"
    assert message["drift"]["highest"] > ALARM
    assert "drift" not in json.loads(heartbeat.message([]))
