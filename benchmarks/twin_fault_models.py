"""Bad model updates of a deployed twin: packages damaged after they were made, deployed by the Greengrass API."""

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, REQUEST, RESPONSE, DeployedTwin
from tools.offline_deploy import DeploymentError
from twin.operator import OperatorClient

COMPONENT = NAMES.model_component("digits")
REPORT_LIMIT_S = 60.0

Members = dict[str, bytes]


def unsigned(members: Members) -> None:
    """Without its signature."""
    del members["manifest.sig"]


def changed(members: Members) -> None:
    """Another byte in the model."""
    members["model.onnx"] = b"x" + members["model.onnx"][1:]


def truncated(members: Members) -> None:
    """A model that ends after 100 bytes."""
    members["model.onnx"] = members["model.onnx"][:100]


def forged(members: Members) -> None:
    """A changed model, and a manifest that was changed with it."""
    changed(members)
    members["manifest.json"] += b" "


def archive(members: Members) -> bytes:
    """The zip file of a package."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in members.items():
            package.writestr(name, content)
    return out.getvalue()


class Updates:
    """Deploys versions of the digit model's component to a twin's device.

    Args:
        twin: A deployed one.
        operator: A connected client of it.
    """

    def __init__(self, twin: DeployedTwin, operator: OperatorClient) -> None:
        self._twin, self._operator = twin, operator
        self._greengrass, self._s3 = twin.deploy.client("greengrassv2"), twin.deploy.client("s3")
        self._deployment = self._newest()
        self.good_version = self._deployment["components"][COMPONENT]["componentVersion"]
        arn = f"arn:aws:greengrass:{twin.state.region}:{twin.state.account}:components:{COMPONENT}"
        self._recipe = json.loads(self._greengrass.get_component(arn=f"{arn}:versions:{self.good_version}")["recipe"])
        self._uri = self._recipe["Manifests"][0]["Artifacts"][0]["Uri"]
        bucket, _, key = self._uri.removeprefix("s3://").partition("/")
        self._bucket, self._key = bucket, key
        with zipfile.ZipFile(io.BytesIO(self._s3.get_object(Bucket=bucket, Key=key)["Body"].read())) as package:
            self.members = {name: package.read(name) for name in package.namelist()}

    def _newest(self) -> dict[str, Any]:
        (newest,) = (
            each
            for each in self._greengrass.list_deployments(historyFilter="LATEST_ONLY")["deployments"]
            if each["targetArn"].endswith(f"thinggroup/{NAMES.thing_group}")
        )
        found: dict[str, Any] = self._greengrass.get_deployment(deploymentId=newest["deploymentId"])
        return found

    def publish(self, number: int, content: bytes, later: bytes | None = None) -> str:
        """Make a component version of an archive, whose object may be `later` another one; gives the version."""
        folder, _, name = self._key.rpartition("/")
        key, version = f"{folder}/fault-{number}/{name}", f"1.999.{number}"
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=content)
        recipe = json.loads(json.dumps(self._recipe)) | {"ComponentVersion": version}
        recipe["Manifests"][0]["Artifacts"] = [{"Uri": f"s3://{self._bucket}/{key}", "Unarchive": "ZIP"}]
        self._greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
        if later is not None:
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=later)
        return version

    def roll_out(self, version: str) -> str:
        """Deploy a version of the model; gives the deployment's status on the device, with the reason of a failure."""
        components = dict(self._deployment["components"])
        components[COMPONENT] = {**components[COMPONENT], "componentVersion": version}
        names = ("targetArn", "deploymentName", "deploymentPolicies", "iotJobConfiguration")
        kept = {name: self._deployment[name] for name in names if self._deployment.get(name)}
        self._greengrass.create_deployment(**kept, components=components)
        try:
            self._twin.deploy.wait_for_device(NAMES.edge_server, timeout_s=120)
        except DeploymentError as exc:
            return str(exc).partition(" is ")[2]
        return "SUCCEEDED"

    def problem(self, awaited: bool) -> str:
        """What the health message says of the model, once it says something (or nothing); at most 60 s later."""
        with self._operator.listen(NAMES.heartbeat_topic) as beats:
            for _ in range(int(REPORT_LIMIT_S)):
                found = str(json.loads(beats.get(timeout=REPORT_LIMIT_S))["models"]["digits"].get("problem", ""))
                if bool(found) == awaited:
                    break
        return found

    def served_version(self) -> str:
        """The version of the model that answers."""
        self._twin.wait_until_served(self._operator)
        request = {"request_id": f"version-{self._newest()['deploymentId']}", "index": 3}
        answer = self._operator.request(REQUEST, request, RESPONSE)
        return str(answer["model"]["version"])


def bad_models(twin: DeployedTwin) -> dict[str, Any]:
    """The model before serves on, the device says why; then a good one is taken again."""
    with twin.operator() as operator, Answers.of(operator):
        updates = Updates(twin, operator)
        before, serving = twin.rss_mb(), updates.served_version()
        pid = twin.component.pid
        good = archive(updates.members)
        packages: dict[str, tuple[bytes, bytes | None, str]] = {
            "unsigned": (damaged(updates, unsigned), None, "is missing: this device takes signed"),
            "changed model": (damaged(updates, changed), None, "must have the SHA-256"),
            "truncated model": (damaged(updates, truncated), None, "bytes, got 100"),
            "changed model and manifest": (damaged(updates, forged), None, "must be made by the signing key"),
            "truncated archive": (good[: len(good) // 2], None, "FAILED"),
            "object changed after the version was made": (good, damaged(updates, changed), "FAILED"),
        }
        outcomes: dict[str, Any] = {}
        for number, (name, (content, later, reason)) in enumerate(packages.items()):
            status = updates.roll_out(updates.publish(number, content, later))
            # What a device cannot unpack or must not trust fails the deployment, the rest the component's own check.
            problem = "" if reason == "FAILED" else updates.problem(awaited=True)
            outcomes[name] = {
                "deployment": status[:300], "health message": problem.rpartition(f"{COMPONENT}/")[2],
                "served on": updates.served_version() == serving, "holds": reason in (problem or status),
            }  # fmt: skip
        status = updates.roll_out(updates.good_version)
        healthy = not updates.problem(awaited=False)
        retrained = updates.served_version() == serving
        after, same = twin.rss_mb(), twin.component.pid == pid
    holds = all(each["holds"] and each["served on"] for each in outcomes.values())
    return {
        **outcomes, "good one again": {"deployment": status, "no problem told": healthy, "served": retrained},
        "same process": same, "rss_mb": [before, after],
        "holds": holds and healthy and retrained and status == "SUCCEEDED" and same
        and not twin.grew(before, after),
    }  # fmt: skip


def damaged(updates: Updates, damage: Callable[[Members], None]) -> bytes:
    """The archive of the good package with a damage."""
    members = dict(updates.members)
    damage(members)
    return archive(members)
