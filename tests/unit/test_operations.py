"""What a stage's file may say about observability, and what a mistake in it looks like."""

from pathlib import Path

import pytest

from config.loader import ConfigurationError, load_stage

STAGE = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[observability]\n'


def loaded(folder: Path, text: str) -> None:
    (folder / "lab.toml").write_text(STAGE + text, encoding="utf-8")
    load_stage("lab", folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("period_s = 150", "observability.period_s: must be a multiple of 60"),
        ("period_s = 60", "observability.period_s: input should be greater than or equal to 120, got 60"),
        ("period_s = 43200", "period_s * periods must be at most 86400 s, got 43200 * 3"),
        ('emails = ["nobody"]', "observability.emails.0: "),
        ("silent_devices = 0", "observability.silent_devices: "),
        ("expected_devices = 0", "observability.expected_devices: "),
        ("[observability.thresholds]\nerror_rate = 1", "observability.thresholds.error_rate: "),
        ("[observability.thresholds]\nminimum_confidence = 2", "observability.thresholds.minimum_confidence: "),
        ("[observability.thresholds]\nlatency_p95_ms = 0", "observability.thresholds.latency_p95_ms: "),
        ("[observability.thresholds]\nlatency = 1", "observability.thresholds.latency: "),
        ("[observability.models.iris]\nerror_rate = 0.1", "observability.models may name digits only, got iris"),
    ],
)
def test_a_mistake_is_told_with_field_rule_and_value(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, text)

    assert told in str(caught.value)


def test_a_stage_may_leave_all_of_it_out(tmp_path: Path) -> None:
    loaded(tmp_path, "")
