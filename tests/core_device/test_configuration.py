"""The device's config.yaml."""

from __future__ import annotations

import pwd
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


@pytest.mark.parametrize(
    ("user", "found"),
    [("root:root", ("root", 0, 0)), ("root", ("root", 0, 0)), ("nobody:root", ("nobody", None, 0)), (None, None)],
)
def test_components_run_as_the_user_that_the_file_names_where_the_device_is_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str | None, found: tuple[str, int | None, int] | None
) -> None:
    path = write(tmp_path, **({"runWithDefault": {"posixUser": user}} if user else {}))

    monkeypatch.setattr("os.geteuid", lambda: 0)
    named = load_configuration(path).nucleus.component_user
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    of_another = load_configuration(path).nucleus.component_user

    assert of_another is None
    if found is None:
        assert named is None
    else:
        assert named is not None
        uid = pwd.getpwnam(found[0]).pw_uid if found[1] is None else found[1]
        assert (named.name, named.uid, named.gid) == (found[0], uid, found[2])


@pytest.mark.parametrize(
    ("user", "rule"),
    [
        ("no-such-user:root", "must be a user and a group of this machine"),
        ("root:no-such-group", "must be a user and a group of this machine"),
        ("", "must be USER or USER:GROUP"),
        ("a b", "must be USER or USER:GROUP"),
        (5, "must be USER or USER:GROUP"),
    ],
)
def test_a_user_that_there_is_not_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: object, rule: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)

    with pytest.raises(ConfigurationError, match=rf"runWithDefault\.posixUser {rule}, got {user!r}"):
        load_configuration(write(tmp_path, runWithDefault={"posixUser": user}))
