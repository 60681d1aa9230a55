"""Stages' files as strangers write them: every mistake is told at once, none becomes a device's or a template's."""

from pathlib import Path

import pytest

from config.loader import ConfigurationError, load_stage

REGION, IRIS = 'region = "eu-west-1"\n', '[[models]]\nfolder = "iris"\n'
GOOD = REGION + IRIS
PINNED = '[[handlers]]\nname = "{}"\nfolder = "digits"\nhandler = "a.b"\npinned = true\n'
OF_RING = "[configuration.canary.inference.models.iris]\n"


def told(folder: Path, text: str) -> str:
    (folder / "lab.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", folder)
    return str(caught.value)


def test_mistakes_between_tables_are_told_at_once(tmp_path: Path) -> None:
    text = (
        f'{GOOD.replace("eu-west-1", "xx-nowhere-1")}[runtime]\narchitecture = "aarch64"\npython = "3.9"\n'
        '[edge_server]\ninstance_type = "t3.small"\n[health]\nrings = []\n[promotion]\nrings = ["canary"]\n'
        "[observability.models.nothing]\nerror_rate = 0.1\n"
        '[[routes]]\nsource = "clod"\ntarget = "iris"\n'
    )

    lines = told(tmp_path, text).splitlines()

    wanted = ("promotion.rings", "observability.models", "routes.0", "instance_type", "runtime.python", "region must")
    assert len(lines) == len(wanted)
    assert all(any(each in line for line in lines) for each in wanted), lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "a = " + "[" * 5000, "must be TOML in UTF-8: maximum recursion depth exceeded"),
        (f"revision = {'9' * 5000}\n{GOOD}", "must be TOML in UTF-8: Exceeds the limit"),
        (f"{GOOD}[observability.thresholds]\nlatency_p95_ms = inf\n", "should be a finite number, got inf"),
        (f"{GOOD}[models.verification]\ntolerance = nan\n", "should be a finite number, got nan"),
        (f"{REGION}[[models]]\nfolder = 'iris'\nserving = {{ threshold = nan }}\n", "a finite number, got nan"),
        (f"{GOOD}{OF_RING}threshold = inf\n", "inference.models.iris.threshold must be a text, a number that is"),
        (f"{GOOD}{OF_RING}topK = [{{ a = 1979-05-27 }}]\n", "models.iris.topK.0.a must be a text, a number that is"),
        (f"{GOOD}{OF_RING}thrshold = 0.5\n", "canary.inference.models.iris.thrshold is unknown: did you mean thresh"),
        (f"{GOOD}{OF_RING}threshold = 5\n", "canary.inference.models.iris.threshold must be a number from 0 to 1"),
        (f"{GOOD}[configuration.all.inference]\nmodels = 'x'\n", "inference.models must hold a table a model, got 'x'"),
        (
            f"{REGION}[[models]]\nfolder = 'iris'\nserving = {{ topk = 5 }}\n",
            "models.iris.serving.topk is unknown: did",
        ),
        (
            f"{REGION}[[models]]\nfolder = 'iris'\nserving = {{ topK = 0 }}\n",
            "models.iris.serving.topK must be a whole",
        ),
        (f"{GOOD}[promotion]\nalpha = 5e-324\n", "promotion.alpha: input should be greater than or equal to 0.000001"),
        (f"{GOOD}[promotion]\nbeta = 1e-300\n", "promotion.beta: input should be greater than or equal to 0.000001"),
        (f"{GOOD}[promotion]\nzone = 1e-9\n", "promotion.zone: input should be greater than or equal to 0.001"),
        (f"{GOOD}[rollout]\nabort_after = {10**20}\n", "rollout.abort_after: input should be less than or equal to"),
        (f"{GOOD}[rollout]\ndevices_per_minute = true\n", "rollout.devices_per_minute: must be a number, got True"),
        (f"region = '{'x' * 5000}'\n", f"got '{'x' * 199}\n"),
        (
            f'{GOOD}{PINNED.format("a")}environment = {{ A = "\\u0000" }}\n',
            "handlers.0.environment.A: string should match",
        ),
        (f'{GOOD}{PINNED.format("a")}publish = ["a\\u0000b"]\n', "spaces, control characters and any of"),
        (
            f'{REGION}[[models]]\nfolder = "iris"\nserving = {{ PublishResultsOnTopic = "a\\u007fb" }}\n',
            "spaces, control characters and any of",
        ),
        (GOOD + PINNED.format("devices"), "handlers: devices is the name of a side of [[routes]]: rename it"),
        (f"{REGION}[[models]]\nfolder = 'cloud'\n", "models: cloud is the name of a side of [[routes]]: rename it"),
        (GOOD + PINNED.format("a-1") + PINNED.format("a1"), "handlers: a-1 and a1 would both be the component A1"),
        (f"{REGION}[[models]]\nfolder = 'b-2-c'\n[[models]]\nfolder = 'b2-c'\n", "models: b-2-c and b2-c would both"),
    ],
)
def test_a_mistake_is_told_where_it_is(tmp_path: Path, text: str, message: str) -> None:
    assert message in told(tmp_path, text)


@pytest.mark.parametrize(
    "host", ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "cam local", "ca\\u0000m", "*", "a..b"]
)
def test_a_camera_is_a_host_and_no_other_spelling_of_the_credentials_address(tmp_path: Path, host: str) -> None:
    text = f'{REGION}[[models]]\nfolder = "iris"\nserving = {{ cameraUrl = "http://{host}/video" }}\n'

    assert "models.iris.serving.cameraUrl must" in told(tmp_path, text)


@pytest.mark.parametrize("host", ["cam.local", "cam_1.local.", "münchen", "192.0.2.7", "CAM"])
def test_a_camera_s_host_may_be_a_name_or_an_address(tmp_path: Path, host: str) -> None:
    text = f'{REGION}[[models]]\nfolder = "iris"\nserving = {{ cameraUrl = "http://{host}/video" }}\n'
    (tmp_path / "lab.toml").write_text(text, encoding="utf-8")

    assert len(load_stage("lab", tmp_path).camera_ways) == 1


@pytest.mark.parametrize("kind", ["a folder", "a link to itself"])
def test_what_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "lab.toml"
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path)

    with pytest.raises(ConfigurationError, match=r"lab\.toml: must be a file that can be read: "):
        load_stage("lab", tmp_path)
