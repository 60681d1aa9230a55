"""The page that a demo leaves behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.places import PROJECT as ROOT
from tests.unit.kept_page import assert_kept
from tools.demo_report import as_page, downloads_of
from twin.page.html import histogram, matrix, page, table, time_line
from twin.state import TwinState


def prediction(index: int, expected: str, label: str, probability: float) -> dict[str, Any]:
    return {"index": index, "expected": expected, "label": label, "probability": probability, "latency_ms": 0.2 + index}


def report(**changes: Any) -> dict[str, Any]:
    return {
        "predictions": [prediction(0, "3", "3", 0.9), prediction(1, "8", "1", 0.6), prediction(2, "1", "1", 0.5)],
        "accuracy": 2 / 3,
        "iris": [prediction(0, "setosa", "setosa", 0.9)],
        "iris_accuracy": 1.0,
        "scenes": [
            {"index": 0, "objects": [], "latency_ms": 0.5},
            {"index": 1, "objects": [{"label": "7", "probability": 0.9, "box": [1, 2, 30, 40]}], "latency_ms": 0.5},
        ],
        "mean_average_precision": 0.9123,
        "deploy_s": 20.04,
        "leftovers": [],
        "steps": [{"name": "twin", "seconds": 1.5, "words": "up"}, {"name": "deploy", "seconds": 4.5, "words": ""}],
        "image_classification": {"description": "random <b>weights</b>", "results": [{"Label": "a", "Score": 0.5}]},
        "downloads": [{"device": "d1", "component": "c", "version": "1.0.0", "file": "a.zip", "bytes": 1234567}],
        "bill": {
            "region": "us-east-1",
            "total": 12.5,
            "prices": "prices of 2026-11-01",
            "items": [{"item": "EC2", "usd": 12.5, "basis": "730 h"}],
        },
        **changes,
    }


def test_shows_every_part_and_fetches_nothing() -> None:
    found = assert_kept(as_page(report()))

    text = " ".join(found.text)
    for part in (
        "66.7%",
        "right of 3 digits",
        "0.912",
        "precision on 2 scenes",
        "1,234,567",
        "12.50 USD a month",
        "Nothing, but for the stack of",
        "1.20 ms",
        "20.0 s",
    ):
        assert part in text, part
    assert "random <b>weights</b>" in text  # as text


def test_wrong_digits_come_first_then_the_least_certain() -> None:
    found = assert_kept(as_page(report()))

    digits = ["sample 1, a 8", "sample 2, a 1", "sample 0, a 3"]
    assert [image["alt"] for image in found.all("img")] == [*digits, "scene 0", "scene 1"]
    assert [each.get("class") for each in found.all("li")][:3] == ["wrong", None, None]


def test_what_is_left_is_listed() -> None:
    text = as_page(report(leftovers=["buckets: one"]))

    assert_kept(text)
    assert '<th scope="row">buckets</th><td>one</td>' in text
    assert "Nothing, but" not in text


def test_the_page_is_made_anew_from_the_figures(tmp_path: Path) -> None:
    figures = tmp_path / "demo.json"
    figures.write_text(json.dumps(report()))
    command = [sys.executable, "-m", "tools.demo_report", str(figures)]

    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    figures.write_text("{}")
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert made.returncode == 0, made.stderr
    assert (tmp_path / "demo.html").read_text() == as_page(report())
    assert refused.returncode == 1
    assert "must be a demo's demo.json" in refused.stderr


def test_a_matrix_counts_pairs() -> None:
    text = matrix(["a", "b"], [("a", "a"), ("a", "a"), ("a", "b")])

    assert '<td class="right">2</td><td class="wrong">1</td>' in text
    assert '<td class="none">0</td><td class="none">0</td>' in text


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [float(each) for each in range(1000)], [0.1] * 99 + [50.0]])
def test_every_value_is_in_one_bar(values: list[float]) -> None:
    text = histogram(values, "answers", "ms", bars=4)

    counts = [int(part.partition("</td>")[0]) for part in text.split('<td class="number">')[1:]]
    assert len(counts) == 4
    assert sum(counts) == len(values)


def test_steps_begin_where_the_one_before_ended() -> None:
    text = time_line([("a", 1.0, ""), ("b", 3.0, "")])

    assert "margin-left:0.00%;width:25.00%" in text
    assert "margin-left:25.00%;width:75.00%" in text


def test_texts_stay_texts() -> None:
    text = page("<i>t</i>", "&", [("<h>", table("<c>", ["<x>"], [["<y>"]]))])

    assert_kept(text)
    assert not [tag for tag in ("<i>", "<h>", "<c>", "<x>", "<y>") if tag in text]


def test_downloads_are_read_from_the_devices_logs(tmp_path: Path) -> None:
    log = tmp_path / "instances" / "i-1" / "log" / "core_device.log"
    log.parent.mkdir(parents=True)
    line = "INFO artifacts: component my.Model 1.2.3, artifact s3://bucket/models/abc/Model.zip: fetched 77 bytes"
    log.write_text(f"something else\n{line}\n")
    ports = dict.fromkeys(("gateway_port", "mqtt_port", "data_port", "front_port", "proxy_port"), 1)
    state = TwinState(
        home=tmp_path, pid=1, started=0.0, region="us-east-1", account="0" * 12, secret="s", clock="", **ports
    )

    expected = {"device": "i-1", "component": "my.Model", "version": "1.2.3", "file": "Model.zip", "bytes": 77}
    assert downloads_of(state) == [expected]
