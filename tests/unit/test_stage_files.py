"""Stages: their files, and what a mistake in one looks like."""

import platform
import sys
from pathlib import Path

import pytest

from config.loader import ConfigurationError, load_stage, stage_names
from config.model import Model, serving
from config.names import Names
from config.stage import Stage

GOOD = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n'


def written(folder: Path, text: str) -> Path:
    (folder / "lab.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", stage_names())
def test_loads_every_stage_of_the_repository(name: str) -> None:
    stage = load_stage(name)

    assert stage.name == name
    assert stage.models[0].compiler == "neo"


def test_only_prod_keeps_what_it_stored() -> None:
    assert {name: load_stage(name).retain for name in stage_names()} == {"dev": False, "prod": True, "twin": False}


def test_the_twin_targets_this_machine() -> None:
    runtime = load_stage("twin").runtime

    assert runtime.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert runtime.architecture == platform.machine()


def test_an_unknown_stage_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"stage must be one of lab, got 'labb': name one of them, or write .*/labb.toml"
    ):
        load_stage("labb", written(tmp_path, GOOD))


def test_what_an_editor_or_a_file_system_hides_beside_a_stage_is_none(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    (tmp_path / ".#lab.toml").symlink_to("someone@somewhere.4711")  # Emacs, while the file is edited
    (tmp_path / "._lab.toml").write_bytes(b"\x00\x05\x16\x07")  # macOS, on a disk of another system

    assert stage_names(tmp_path) == ["lab"]
    assert load_stage("lab", tmp_path).name == "lab"


def test_a_folder_without_a_stage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"must hold a stage's file, such as lab\.toml, it holds none"):
        load_stage("lab", tmp_path)


def test_a_file_that_is_no_toml_is_named_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"lab\.toml: must be TOML in UTF-8: .*line 2"):
        load_stage("lab", written(tmp_path, 'region = "eu-west-1"\nmodels = = 3\n'))


def test_all_mistakes_are_reported_at_once_with_field_rule_and_value(tmp_path: Path) -> None:
    text = (
        'region = "moon"\nretian = true\n[[models]]\nfolder = "digits"\ncompiler = "gcc"\n'
        '[edge_server]\nvolume_gib = 2\n[rollout]\ndevices_per_minute = "many"\n'
    )

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, text))

    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert all(line.startswith(f"{tmp_path.name}/lab.toml: ") for line in lines)
    told = str(caught.value)
    assert "region: string should match pattern" in told
    assert "got 'moon'" in told
    assert "retian: must be a key of the table: did you mean retain?" in told
    assert "models.0.compiler: input should be 'neo', 'onnxruntime' or 'none', got 'gcc'" in told
    assert "edge_server.volume_gib: input should be greater than or equal to 8, got 2" in told
    assert "rollout.devices_per_minute: " in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[model]]\nfolder = "digits"\n', "model: must be a key of the table: did you mean models?"),
        ("[rollout]\ndevices_per_hour = 5\n", "rollout.devices_per_hour: must be a key of the table: did you mean dev"),
        (
            "[rollout.growth]\nshare = 5\n",
            "rollout.growth.share: must be a key of the table: after_devices, devices_per",
        ),
        ('[fleet]\ndevices = "line-1"\n', "fleet.devices: input should be a list, got 'line-1'"),
        ('[[handlers]]\nnam = "v1"\n', "handlers.0.nam: must be a key of the table: did you mean name?"),
    ],
)
def test_a_key_or_a_list_is_told_in_the_files_own_words(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, GOOD + text))

    assert f"lab.toml: {told}" in str(caught.value)


def test_mistakes_between_tables_are_all_told_at_once(tmp_path: Path) -> None:
    text = (
        '[promotion]\nrings = ["early"]\n[health]\nrings = ["canary"]\n[observability.models.iris]\ndrift = 0.5\n'
        '[edge_server]\ninstance_type = "t4g.small"\n[client_devices]\nthings = ["camera-1"]\n'
    )

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, GOOD + text))

    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path.name}/lab.toml: ") for line in lines)
    found = [line.partition(": ")[2].partition(" ")[0] for line in lines]
    assert found == ["promotion.rings", "observability.models", "client_devices", "edge_server.instance_type"]


def test_mistakes_of_single_fields_hide_none_between_other_tables_or_in_lists(tmp_path: Path) -> None:
    text = (
        '[promotion]\nrings = ["early"]\n[health]\nrings = ["canary"]\n[rollout]\nabort_percentage = 0\n'
        '[observability.models.iris]\ndrift = 0.5\n[edge_server]\ninstance_type = "t4g.small"\nvolume_gib = 2\n'
        '[fleet]\nfile = "lines.csv"\n'
    )
    (tmp_path / "lines.csv").write_text("device,ring\nline-1,moon\n")

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, GOOD + text))

    # What edge_server.instance_type must agree with cannot be judged: its table has a mistake.
    told = [line.partition(": ")[2].partition(" ")[0] for line in str(caught.value).splitlines()]
    assert told == [
        "edge_server.volume_gib:",
        "rollout.abort_percentage:",
        "promotion.rings",
        "observability.models",
        "fleet.file:",
    ]


@pytest.mark.parametrize("table", sorted(Stage.model_fields.keys() - {"name"}))
def test_whichever_table_is_wrong_it_is_told_and_no_rule_stumbles_over_it(tmp_path: Path, table: str) -> None:
    values = {"region": '"eu-west-1"', "models": '[{ folder = "digits" }]', table: "1979-05-27"}
    text = "".join(f"{key} = {value}\n" for key, value in values.items())

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, text))

    assert [line.partition(": ")[2].partition(":")[0] for line in str(caught.value).splitlines()] == [table]


def test_a_list_of_devices_is_told_beside_mistakes_between_tables(tmp_path: Path) -> None:
    text = '[promotion]\nrings = ["early"]\n[health]\nrings = ["canary"]\n[fleet]\nfile = "lines.csv"\n'

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, GOOD + text))

    told = [line.partition(": ")[2].partition(" ")[0] for line in str(caught.value).splitlines()]
    assert told == ["promotion.rings", "fleet.file:"]


def test_a_value_is_told_once(tmp_path: Path) -> None:
    text = '[fleet]\nnucleus = "classic"\n[client_devices]\nthings = ["camera-1"]\nsubscribe = ["#"]\n'

    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, GOOD + text))

    assert str(caught.value).count("got '#'") == 1


def test_a_missing_field_is_reported_without_a_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_stage("lab", written(tmp_path, '[[models]]\nfolder = "digits"\n'))

    assert str(caught.value) == f"{tmp_path.name}/lab.toml: region: field required"


def test_a_model_may_be_listed_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="models: each model may be listed once, twice there: digits"):
        load_stage("lab", written(tmp_path, GOOD + '[[models]]\nfolder = "digits"\n'))


def test_the_name_comes_from_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name: comes from the file's name, got 'prod': remove it"):
        load_stage("lab", written(tmp_path, 'name = "prod"\n' + GOOD))


def test_an_instance_of_the_wrong_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"t4g\.small is aarch64, runtime\.architecture is x86_64"):
        load_stage("lab", written(tmp_path, GOOD + '[edge_server]\ninstance_type = "t4g.small"\n'))


def test_an_instance_that_ec2_does_not_optimise_for_ebs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"instance_type: must be a kind that EC2 optimises for EBS: take t3"):
        load_stage("lab", written(tmp_path, GOOD + '[edge_server]\ninstance_type = "t2.small"\n'))


@pytest.mark.parametrize(("architecture", "instance_type"), [("x86_64", "t3.small"), ("aarch64", "t4g.small")])
def test_the_default_instance_has_the_runtimes_architecture(
    tmp_path: Path, architecture: str, instance_type: str
) -> None:
    stage = load_stage("lab", written(tmp_path, GOOD + f'[runtime]\narchitecture = "{architecture}"\n'))

    assert stage.instance_type == instance_type


def test_a_stage_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"models: at least one model must be listed, got \[\]"):
        load_stage("lab", written(tmp_path, 'region = "eu-west-1"\nmodels = []\n'))


@pytest.mark.parametrize(
    ("nucleus", "told"),
    [('kind = "lite"', "got lite 2.6.0"), ('version = "2.5.6"\nsha256 = "' + "0" * 64 + '"', "got classic 2.5.6")],
)
def test_a_topic_with_the_devices_name_needs_a_nucleus_that_fills_it(tmp_path: Path, nucleus: str, told: str) -> None:
    handler = '[[handlers]]\nname = "v1"\nfolder = "digits"\nhandler = "a.b"\npublish = ["dt/{thing}/out"]\n'
    python = '[runtime]\npython = "3.12"\n'

    assert load_stage("lab", written(tmp_path, GOOD + python + handler)).wiring.handlers["v1"].name_the_thing
    with pytest.raises(ConfigurationError, match=rf"handlers\.v1: a topic with {{thing}} needs .* {told}") as caught:
        load_stage("lab", written(tmp_path, GOOD + python + handler + f"[edge_server.nucleus]\n{nucleus}\n"))
    assert "use one topic, and the name in the message" in str(caught.value)


@pytest.mark.parametrize("mark", ["\ufeff", ""])
def test_a_byte_order_mark_is_no_mistake(tmp_path: Path, mark: str) -> None:
    assert load_stage("lab", written(tmp_path, mark + GOOD)).region == "eu-west-1"


@pytest.mark.parametrize(
    ("cidr", "told"),
    [
        ("300.1.1.0/24", "IPv4 range of /16 to /28 such as 10.42.0.0/24: .*300.*, got '300.1.1.0/24'"),
        ("10.0.0.7/24", "without bits of a host: write 10.0.0.0/24, got '10.0.0.7/24'"),
        ("127.0.0.0/16", "not of 127.0.0.0/8 .loopback., got '127.0.0.0/16'"),
        ("0.0.0.0/16", "not of 0.0.0.0/8 .this network."),
        ("169.254.8.0/24", "not of 169.254.0.0/16 .link-local."),
        ("239.0.0.0/16", "not of 224.0.0.0/4 .multicast."),
        ("255.255.255.0/24", "not of 240.0.0.0/4 .reserved."),
        ("10.0.0.0/8", "IPv4 range of /16 to /28 such as 10.42.0.0/24, got '10.0.0.0/8'"),
        ("10.0.0.0", "IPv4 range of /16 to /28"),
        ("fd00::/64", "IPv4 range of /16 to /28"),
        ("010.0.0.0/24", "IPv4 range of /16 to /28 .*: Leading zeros"),
    ],
)
def test_a_range_that_no_vpc_takes_is_refused(tmp_path: Path, cidr: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"lab\.toml: network\.cidr: must be an .*{told}"):
        load_stage("lab", written(tmp_path, GOOD + f'[network]\ncidr = "{cidr}"\n'))


def test_a_range_of_a_vpc_is_taken(tmp_path: Path) -> None:
    stage = load_stage("lab", written(tmp_path, GOOD + '[network]\ncidr = "172.31.240.0/20"\n'))

    assert stage.network.cidr == "172.31.240.0/20"


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ('compiler = "neo"\n', 38),
        ('compiler = "none"\nverify = "endpoint"\n', 38),
        ('compiler = "neo"\npackager = "edge-manager"\n', 36),
        ("", 42),
    ],
)
def test_names_that_are_too_long_together_are_told_with_both(tmp_path: Path, settings: str, most: int) -> None:
    stage = "abcdefghijkl"

    def load(folder: str) -> str:
        text = f'region = "eu-west-1"\n[[models]]\nfolder = "{folder}"\n{settings}'
        (tmp_path / f"{stage}.toml").write_text(text, encoding="utf-8")
        return load_stage(stage, tmp_path).models[0].folder

    fits = "m" * (most - len(stage))

    assert load(fits) == fits
    if most < 42:
        told = f"models.folder and the stage's name may have {most} .*, got '{fits}m' and '{stage}': shorten one by 1"
        with pytest.raises(ConfigurationError, match=told):
            load(f"{fits}m")


@pytest.mark.parametrize("other", ["lab-canary", "lab-early", "lab-model", "lab-2"])
def test_a_name_that_begins_with_another_stages_is_refused_from_both_sides(tmp_path: Path, other: str) -> None:
    folder = written(tmp_path, GOOD)
    (folder / f"{other}.toml").write_text(GOOD)

    for name in ("lab", other):
        with pytest.raises(ConfigurationError, match=rf"another one's and a hyphen, got '{other}' and 'lab'"):
            load_stage(name, folder)
    (folder / f"{other}.toml").rename(folder / "laboratory.toml")
    assert load_stage("lab", folder).name == "lab"


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        ('cameraPassword = "hunter2"', "name that in cameraPasswordFile"),
        ('cameraUrl = "http://admin:hunter2@cam/"', "move them to cameraUser and cameraPasswordFile"),
        ('cameraUrl = "rtsp://cam/hunter2"', "got one of scheme rtsp"),
        ('cameraUrl = "http://169.254.169.254/hunter2"', "where EC2 hands out credentials"),
        ('cameraUrl = "http://[fd00::7]/hunter2"', "VPC has no IPv6"),
        ('cameraUrl = "http://cam:hunter2/"', "must be an address"),
    ],
)
def test_a_camera_is_refused_without_its_password_being_told(tmp_path: Path, serving: str, told: str) -> None:
    of_ring = f"[configuration.canary.inference.models.digits]\n{serving}\n"

    for text in (f"serving = {{ {serving} }}\n", of_ring):
        with pytest.raises(ConfigurationError, match=told) as caught:
            load_stage("lab", written(tmp_path, GOOD + text))
        assert "hunter2" not in str(caught.value)


def test_the_edge_servers_network_lets_out_what_its_cameras_need(tmp_path: Path) -> None:
    cameras = {"canary": "https://cam:8443", "all": "http://10.42.0.9:8080/a"}
    text = 'serving = { cameraUrl = "http://cam.example/video" }\n'
    text += "".join(
        f'[configuration.{ring}.inference.models.other]\ncameraUrl = "{url}"\n' for ring, url in cameras.items()
    )

    assert load_stage("lab", written(tmp_path, GOOD + text)).camera_ways == [("0.0.0.0/0", 80), ("10.42.0.9/32", 8080)]
    assert load_stage("lab", written(tmp_path, GOOD)).camera_ways == []


@pytest.mark.parametrize(
    "topic", ["site/{thing}/results", "site/+/results", "site/#", "two words", "x" * 257, "${x}/y"]
)
def test_a_topic_of_results_that_is_not_one_of_all_devices_is_refused(tmp_path: Path, topic: str) -> None:
    file = tmp_path / "lab.toml"
    text = 'region = "eu-west-1"\n[[models]]\nfolder = "digits"\nserving = {{ PublishResultsOnTopic = "{}" }}\n'
    file.write_text(text.format(topic))

    with pytest.raises(ConfigurationError, match=r"serving\.PublishResultsOnTopic must be one topic of all devices"):
        load_stage("lab", tmp_path)
    file.write_text(text.format("site/{stage}/" + "x" * 200))
    assert load_stage("lab", tmp_path).models[0].serving


def test_a_topic_of_results_in_a_models_folder_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text('{"serving": {"PublishResultsOnTopic": "site/{thing}/results"}}')

    with pytest.raises(ValueError, match=r"m/model\.json: serving\.PublishResultsOnTopic must be one topic"):
        serving(Model(folder="m"), Names("lab"), tmp_path)
