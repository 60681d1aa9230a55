"""Imports that must happen before aws_cdk's, and the fleet that the rules are tried on."""

from pathlib import Path

import pytest

import tests.synthesis  # noqa: F401 (points jsii to the fast Node)
from tests.edge_rules.sample_fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)
