"""The device's config.yaml."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from twin.core_device.configuration import load_configuration
from twin.core_device.errors import ConfigurationError


def write(folder: Path, **changes: object) -> Path:
    for name in ("key", "cert", "ca"):
        (folder / name).write_text("x")
    nucleus: dict[str, object] = {
        "awsRegion": "us-east-1",
        "iotCredEndpoint": "c.credentials.iot.us-east-1.amazonaws.com",
        "iotDataEndpoint": "d-ats.iot.us-east-1.amazonaws.com",
        "iotRoleAlias": "alias",
        "greengrassDataPlanePort": "8443",
        "networkProxy": {"proxy": {"url": "http://127.0.0.1:3128"}},
    }
    system: dict[str, object] = {
        "privateKeyPath": str(folder / "key"),
        "certificateFilePath": str(folder / "cert"),
        "rootCaPath": str(folder / "ca"),
        "rootPath": str(folder),
        "thingName": "thing-1",
    }
    for name, value in changes.items():
        (system if name in system else nucleus)[name] = value
    path = folder / "config.yaml"
    service = {"componentType": "NUCLEUS", "configuration": nucleus}
    path.write_text(yaml.safe_dump({"system": system, "services": {"aws.greengrass.NucleusLite": service}}))
    return path


def test_reads_the_format_of_nucleus_lite(tmp_path: Path) -> None:
    configuration = load_configuration(write(tmp_path))

    assert configuration.system.thing_name == "thing-1"
    assert configuration.nucleus.data_plane_port == 8443
    assert configuration.nucleus.proxy_url == "http://127.0.0.1:3128"


def test_lists_every_mistake_with_file_field_rule_and_value(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        privateKeyPath="/nowhere/key",
        thingName="no spaces",
        awsRegion=7,
        greengrassDataPlanePort="70000",
        networkProxy={"proxy": {"url": "socks5://x"}},
        rootPath="relative",
    )

    with pytest.raises(ConfigurationError) as error:
        load_configuration(path)

    lines = str(error.value).splitlines()
    assert len(lines) == 6
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert f"{path}: system.privateKeyPath must be a readable file, got '/nowhere/key'" in lines


@pytest.mark.parametrize("text", ["", "[]", "a: [", "services: 5", "\x00"])
def test_a_file_of_another_shape_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=r"config\.yaml"):
        load_configuration(path)
