import os
import sys
from pathlib import Path

import pytest

from tools.node import node_binary, settle_jsii


def test_jsii_unpacks_in_the_environment_not_in_the_home_folder() -> None:
    settings: dict[str, str] = {}

    settle_jsii(settings)

    assert Path(settings["JSII_RUNTIME_PACKAGE_CACHE_ROOT"]).parent == Path(sys.prefix)
    assert settings["JSII_NODE"] == str(node_binary())


def test_what_the_user_has_set_for_jsii_stays() -> None:
    settings = {"JSII_NODE": "/usr/bin/node", "JSII_RUNTIME_PACKAGE_CACHE_ROOT": "/var/cache/jsii"}

    settle_jsii(settings)

    assert settings == {"JSII_NODE": "/usr/bin/node", "JSII_RUNTIME_PACKAGE_CACHE_ROOT": "/var/cache/jsii"}


def test_an_environment_that_cannot_be_written_leaves_the_place_to_jsii(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: str(path) != sys.prefix)
    settings: dict[str, str] = {}

    settle_jsii(settings)

    assert set(settings) == {"JSII_NODE"}
