"""The edge server with every nucleus on every architecture: through the policy gate, with its own image and script."""

import json
import re
from pathlib import Path

import aws_cdk as cdk
import pytest

from config.loader import read_context
from edge_constructs.edge_assets import user_data_script
from edge_constructs.edge_server import EdgeNetwork, EdgeServer
from edge_constructs.synth import PolicyGate, new_app
from edge_rules.server_rules import needed_ports

IMAGES = {
    ("classic", "x86_64"): "al2023-ami-kernel-default-x86_64",
    ("classic", "aarch64"): "al2023-ami-kernel-default-arm64",
    ("docker", "x86_64"): "al2023-ami-kernel-default-x86_64",
    ("docker", "aarch64"): "al2023-ami-kernel-default-arm64",
    ("lite", "x86_64"): "24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    ("lite", "aarch64"): "24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
}
#: What the script opens connections to, and all that the network lets out.
PORTS = {"classic": {443, 8443, 8883}, "docker": {443, 8443, 8883}, "lite": {80, 443, 8443, 8883}}
MARKS = {"classic": "java-17-amazon-corretto", "docker": "docker import", "lite": "greengrass-lite.target"}


@pytest.mark.parametrize(("kind", "architecture"), list(IMAGES))
def test_passes_the_gate_with_its_image_and_script(tmp_path: Path, kind: str, architecture: str) -> None:
    app = new_app(read_context(), outdir=tmp_path)
    gate = PolicyGate(app)
    system = "ubuntu" if kind == "lite" else "amazon-linux"
    stack = cdk.Stack(app, "Lab", env=cdk.Environment(region="eu-west-1"))
    EdgeServer(
        stack,
        "Server",
        network=EdgeNetwork(stack, "Network", name="lab", cidr="10.0.0.0/24", flow_logs=True, system=system),
        instance_profile="profile",
        instance_type="t4g.small" if architecture == "aarch64" else "t3.small",
        architecture=architecture,
        volume_gib=20,
        settings={"THING_NAME": "lab", "PYTHON": "3.12", "NUCLEUS_URL": "https://downloads.example/nucleus.zip"},
        image="2026-11-29",
        script=user_data_script(kind),
        system=system,
        patience=cdk.Duration.minutes(15),
        name="lab",
    )

    gate.synth()

    text = (tmp_path / "Lab.template.json").read_text()
    content = json.loads(text)
    (launch,) = [each for each in content["Resources"].values() if each["Type"] == "AWS::EC2::LaunchTemplate"]
    assert IMAGES[kind, architecture] in launch["Properties"]["LaunchTemplateData"]["ImageId"]
    assert MARKS[kind] in text
    (wait,) = [each for each in content["Resources"].values() if each["Type"] == "AWS::CloudFormation::WaitCondition"]
    assert wait["Properties"]["Timeout"] == "900"
    (group,) = [each for each in content["Resources"].values() if each["Type"] == "AWS::EC2::SecurityGroup"]
    assert {rule["FromPort"] for rule in group["Properties"]["SecurityGroupEgress"]} == PORTS[kind]
    assert set(needed_ports(user_data_script(kind))) == PORTS[kind]


@pytest.mark.parametrize("kind", list(PORTS))
def test_no_script_names_a_python_of_its_own(kind: str) -> None:
    assert re.findall(r"python3\.\d+", user_data_script(kind)) == []
