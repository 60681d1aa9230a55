"""Names that devices and people know."""

import pytest

from config.names import Names


def test_names_of_the_twin_are_the_published_ones() -> None:
    names = Names("twin")

    assert names.thing_group == "edgewright-twin"
    assert names.thing_type == "edgewright-twin-core"
    assert names.role_alias == "edgewright-twin-token-exchange"
    assert names.iot_policy == "edgewright-twin-core-device"
    assert names.edge_server == "edgewright-twin-edge-server"
    assert names.runtime_component == "edgewright.twin.Runtime"
    assert names.inference_component == "edgewright.twin.Inference"
    assert names.model_component("digits") == "edgewright.twin.model.Digits"
    assert names.request_topic("digits") == "edgewright/twin/digits/request"
    assert names.response_topic("digits") == "edgewright/twin/digits/response"
    assert names.compilation_job("digits") == "edgewright-twin-digits"


@pytest.mark.parametrize("model", ["digits", "iris-flowers", "a1"])
def test_two_stages_share_no_name(model: str) -> None:
    def all_names(names: Names) -> set[str]:
        plain = {value for key in dir(Names) if isinstance(value := getattr(names, key), str) and key[0] != "_"}
        return plain | {names.model_component(model), names.request_topic(model)}

    assert not all_names(Names("dev")) & all_names(Names("prod"))


def test_bucket_names_fit_into_s3s_limit() -> None:
    names = Names("a" * 12)

    assert len(names.access_log_bucket("0" * 12, "ap-southeast-1")) <= 63
