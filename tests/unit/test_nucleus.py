"""What the edge server may download."""

import itertools
from pathlib import Path

import pytest

from config.edge_server import DIGESTS, nucleus_download
from config.loader import ConfigurationError, load_stage

MODELS = '[[models]]\nfolder = "digits"\n'


def stage_file(folder: Path, *tables: str, region: str = "eu-west-1") -> Path:
    (folder / "lab.toml").write_text(f'region = "{region}"\n{MODELS}' + "\n".join(tables), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "version", "architecture"), [*itertools.product(["classic", "docker"], DIGESTS, ["x86_64", "aarch64"])]
)
def test_known_releases_need_no_digest(kind: str, version: str, architecture: str) -> None:
    download = nucleus_download(kind, version, None, architecture)

    assert download.url.endswith(f"/greengrass-{version}.zip")
    assert download.sha256 == DIGESTS[version]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('[edge_server.nucleus]\nkind = "lite"', r"required for lite 2\.6\.0 on x86_64, as nobody has published"),
        ('[edge_server.nucleus]\nversion = "2.17.0"', r"required for classic 2\.17\.0 on x86_64"),
    ],
)
def test_a_release_without_a_known_digest_is_refused(tmp_path: Path, table: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_stage("lab", stage_file(tmp_path, table))

    assert "take it from a download of https://" in str(caught.value)


def test_a_digest_of_ones_own_is_taken(tmp_path: Path) -> None:
    runtime = '[runtime]\npython = "3.12"\narchitecture = "aarch64"'
    table = f'[edge_server.nucleus]\nkind = "lite"\nsha256 = "{"0" * 64}"\n{runtime}'

    download = load_stage("lab", stage_file(tmp_path, table)).nucleus_download

    assert download.url.endswith("/v2.6.0/aws-greengrass-lite-deb-arm64.zip")
    assert download.sha256 == "0" * 64


def test_a_region_that_lacks_greengrass_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="region must have AWS IoT Greengrass V2, one of ap-northeast-1"):
        load_stage("lab", stage_file(tmp_path, region="eu-north-1"))


@pytest.mark.parametrize("python", ["3.10", "3.99"])
@pytest.mark.parametrize("kind", ["classic", "docker"])
def test_amazon_linux_has_packages_of_some_pythons_only(tmp_path: Path, kind: str, python: str) -> None:
    table = f'[edge_server.nucleus]\nkind = "{kind}"\n[runtime]\npython = "{python}"'

    with pytest.raises(ConfigurationError, match=rf"{kind}, 3\.11 or 3\.12 or 3\.13 or 3\.14, got {python}"):
        load_stage("lab", stage_file(tmp_path, table))


def test_nucleus_lite_needs_the_python_of_its_system(tmp_path: Path) -> None:
    table = f'[edge_server.nucleus]\nkind = "lite"\nsha256 = "{"0" * 64}"'

    with pytest.raises(ConfigurationError, match=r"runtime.python must be one .* lite, 3\.12, got 3\.11"):
        load_stage("lab", stage_file(tmp_path, table))
