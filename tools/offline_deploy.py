"""One stage of the app, deployed to a running twin by the pinned CDK command line, watched and destroyed.

The command line is a child process: streamed, logged, bounded, ended with its whole process group.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config.places import NODE_MODULES, PROJECT
from tools.node import node_binary, settle_jsii
from twin.files import private_folder

_COMMAND = NODE_MODULES / "aws-cdk" / "bin" / "cdk"
_TAIL_LINES = 25
_GRACE_S = 5


class CdkError(RuntimeError):
    """The CDK command line failed; the message ends with its last lines and where the rest is."""


def run_cdk(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
    on_line: Callable[[str], None] = lambda _line: None,
    trouble: Callable[[], str] = lambda: "",
    cwd: Path = PROJECT,
) -> float:
    """Run one CDK command to its end.

    Args:
        arguments: what follows `cdk`, such as ["deploy", "--all"].
        environment: the whole environment of the child, endpoint and credentials included.
        log: file that receives all output; an older one is overwritten.
        timeout_s: after so many seconds the command is ended and CdkError raised.
        on_line: called with each line of output, without its end.
        trouble: asked every second, such as "lost its cloud"; what it says ends the command, which by itself would try
            for minutes.
        cwd: the app's folder, where cdk.json is.

    Returns:
        How long it took, in seconds.

    Raises:
        CdkError: the command failed, took too long, or has trouble.
    """
    if not _COMMAND.exists():
        raise CdkError(f"the CDK command line is missing at {_COMMAND}: run make setup")
    started = time.monotonic()
    command = [str(node_binary()), str(_COMMAND), "--no-color", "--no-notices", "--ci", *arguments]
    # A session of its own: an interrupt reaches it when its asset uploads and synth can be ended with it, not before.
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    done, ended_because = threading.Event(), ""

    def watch() -> None:
        nonlocal ended_because
        while not done.wait(1):
            if time.monotonic() - started > timeout_s:
                ended_because = f"took longer than {timeout_s:.0f} s"
            else:
                ended_because = _told(trouble)
            if ended_because and process.poll() is not None:
                ended_because = ""  # it has ended by itself meanwhile
            if ended_because:
                end_group(process)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        with log.open("w") as file:
            for line in process.stdout or ():
                file.write(line)
                tail.append(line.rstrip())
                on_line(line.rstrip())
        code = process.wait()
    finally:
        done.set()
        watcher.join()
        end_group(process)
    if ended_because:
        raise CdkError(f"cdk {arguments[0]} {ended_because} and was ended; all output: {log}")
    if code:
        last = "\n".join(tail)
        raise CdkError(f"cdk {arguments[0]} ended with exit code {code}; all output: {log}; its last lines:\n{last}")
    return time.monotonic() - started


def _told(trouble: Callable[[], str]) -> str:
    try:
        return trouble()
    except Exception as exc:  # noqa: BLE001 - whatever it is, the command's limit must go on being watched
        return f"cannot be told whether its cloud runs ({exc})"


def end_group(process: subprocess.Popen[str], ask: signal.Signals = signal.SIGTERM) -> None:
    """End the process group of a command with a session of its own: ask, wait a little, insist."""
    for number in (ask, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        break


SYNTH_LIMIT_S = 180
BOOTSTRAP_LIMIT_S = 180
DEPLOY_LIMIT_S = 600
_FINAL = {"SUCCEEDED", "FAILED", "REJECTED", "CANCELED", "TIMED_OUT"}
_POLL_S = 0.5
_LARGE_BYTES = 10_000_000


class DeploymentError(RuntimeError):
    """A core device did not run the deployment; the message names device, status and reason."""


@dataclass(frozen=True)
class OfflineDeploy:
    """The app in a folder, bound to one twin.

    Attributes:
        environment: what the CDK command line and AWS clients need to reach the twin (endpoint, credentials, region).
        out: folder for templates and logs.
        app: the app's folder (cdk.json, app.py); this repository unless told.
        stage: the stage to deploy.
        on_line: called with each line that a command prints.
        twin_has_ended: asked now and then while a command runs; once it says so, the command is ended.
        twin_lacks: asked while a deploy runs, such as "needs room in out/demo/twin"; what it says ends the deploy: on a
            full disk a function may end without an answer, for which a stack waits.
        context: more of the app's context, besides the stage.
    """

    environment: Mapping[str, str]
    out: Path
    app: Path = PROJECT
    stage: str = "twin"
    on_line: Callable[[str], None] = field(default=lambda _line: None)
    twin_has_ended: Callable[[], bool] = field(default=lambda: False)
    twin_lacks: Callable[[], str] = field(default=lambda: "")
    context: Mapping[str, str] = field(default_factory=dict)

    @property
    def assembly(self) -> Path:
        """Folder of the synthesised templates."""
        return self.out / "cdk.out"

    def synth(self) -> float:
        """Synthesise the stage once; every later command reads the result. Returns seconds.

        Raises:
            DeploymentError: the app failed, and its own message is part of the text; or it took too long.
        """
        started = time.monotonic()
        environment = {
            **os.environ,
            **self.environment,
            "CDK_OUTDIR": str(self.assembly),
            "CDK_CONTEXT_JSON": json.dumps({"stage": self.stage, **self.context}),
        }
        settle_jsii(environment)
        private_folder(self.out)
        with subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=self.app,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, errors = process.communicate(timeout=SYNTH_LIMIT_S)
            except subprocess.TimeoutExpired as exc:
                text = f"synth of stage {self.stage} must end within {SYNTH_LIMIT_S} s: try again"
                raise DeploymentError(text) from exc
            finally:
                end_group(process, signal.SIGINT)  # its Node would outlive it, and by this one it cleans up
        if process.returncode:
            raise DeploymentError(f"synth of stage {self.stage} failed:\n{(errors or output).strip()}")
        return time.monotonic() - started

    def bootstrap(self) -> float:
        """Prepare the twin's account as `cdk bootstrap` does a real one; no template is needed. Returns seconds."""
        account, region = self.environment["CDK_DEFAULT_ACCOUNT"], self.environment["CDK_DEFAULT_REGION"]
        private_folder(self.out)
        # With an app the command line would read its stacks, though the environment is named.
        return self._cdk("bootstrap", f"aws://{account}/{region}", limit_s=BOOTSTRAP_LIMIT_S, app="")

    def deploy(self) -> float:
        """Deploy all stacks. Returns seconds."""
        early = threading.Thread(target=self._publish_large_assets, daemon=True)
        early.start()
        return self._cdk(
            "deploy", "--all", "--require-approval", "never", "--concurrency", "5", "--progress", "events",
            limit_s=DEPLOY_LIMIT_S, trouble=self.twin_lacks,
        )  # fmt: skip

    def destroy(self) -> float:
        """Destroy all stacks. Returns seconds."""
        return self._cdk("destroy", "--all", "--force", "--concurrency", "5", limit_s=DEPLOY_LIMIT_S)

    def _cdk(
        self, *arguments: str, limit_s: float, app: str | None = None, trouble: Callable[[], str] = lambda: ""
    ) -> float:
        return run_cdk(
            [arguments[0], "--app", str(self.assembly) if app is None else app, *arguments[1:]],
            # A folder of its own: the command line remembers accounts by access key, and the twin's key is nobody's.
            environment={
                **os.environ,
                **self.environment,
                "CDK_HOME": str(self.out / "cdk-home"),
                "NODE_COMPILE_CACHE": str(self.out / "node-cache"),  # its sixteen megabytes are compiled once
            },
            log=self.out / f"cdk-{arguments[0]}.log",
            timeout_s=limit_s,
            on_line=self.on_line,
            trouble=lambda: "lost the cloud it talked to" if self.twin_has_ended() else trouble(),
            cwd=self.app,
        )

    def _publish_large_assets(self) -> None:
        """Publish what takes time at once, by the role that the command line takes, too.

        The command line itself waits with it for the stacks below, which is for the sake of its progress display, and
        publishes what is not there by then.
        """
        with suppress(BotoCoreError, ClientError, Boto3Error, OSError):
            for manifest in self.assembly.glob("*.assets.json"):
                for asset in json.loads(manifest.read_text(encoding="utf-8"))["files"].values():
                    path = self.assembly / asset["source"]["path"]
                    if asset["source"]["packaging"] == "file" and path.stat().st_size >= _LARGE_BYTES:
                        for destination in asset["destinations"].values():
                            if "assumeRoleArn" in destination:  # else the app's own synthesizer publishes as it likes
                                self._publish(path, destination)

    def _publish(self, path: Path, destination: Mapping[str, str]) -> None:
        account, region = self.environment["CDK_DEFAULT_ACCOUNT"], self.environment["CDK_DEFAULT_REGION"]

        def filled(name: str) -> str:
            known = {"${AWS::AccountId}": account, "${AWS::Region}": region, "${AWS::Partition}": "aws"}
            text = destination[name]
            for variable, value in known.items():
                text = text.replace(variable, value)
            return text

        role = {"RoleArn": filled("assumeRoleArn"), "RoleSessionName": "early-assets"}
        session = self.client("sts").assume_role(**role)["Credentials"]
        s3 = boto3.client(
            "s3",
            region_name=region,
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=session["AccessKeyId"],
            aws_secret_access_key=session["SecretAccessKey"],
            aws_session_token=session["SessionToken"],
            # Its threads would keep the process from ending while they try again at a twin that is gone.
            config=Config(retries={"total_max_attempts": 1}),
        )
        place = {"Bucket": filled("bucketName"), "Key": filled("objectKey")}
        if s3.list_objects_v2(Bucket=place["Bucket"], Prefix=place["Key"], MaxKeys=1)["KeyCount"] == 0:
            s3.upload_file(str(path), **place)

    def client(self, service: str) -> Any:
        """An AWS client that talks to the twin."""
        return boto3.client(
            service,
            region_name=self.environment["AWS_REGION"],
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.environment["AWS_SECRET_ACCESS_KEY"],
        )

    def wait_for_device(
        self, thing: str, *, timeout_s: float, on_status: Callable[[str], None] = lambda _s: None
    ) -> str:
        """Wait until the core device has run the newest deployment of its thing group.

        Args:
            thing: name of the core device's thing.
            timeout_s: the longest wait.
            on_status: called with each new status text.

        Returns:
            The deployment's id.

        Raises:
            DeploymentError: it failed on the device, or the time is over; names device, status and reason.
        """
        greengrass = self.client("greengrassv2")
        deadline = time.monotonic() + timeout_s
        seen = ""
        while True:
            wanted = {
                d["deploymentId"] for d in greengrass.list_deployments(historyFilter="LATEST_ONLY")["deployments"]
            }
            status, reason, deployment = self._effective(greengrass, thing, wanted)
            if status != seen:
                seen = status
                on_status(f"{thing}: {status}")
            if status == "SUCCEEDED":
                return deployment
            if status in _FINAL:
                raise DeploymentError(f"deployment {deployment} on core device {thing} is {status}: {reason}")
            if time.monotonic() > deadline:
                raise DeploymentError(
                    f"core device {thing} has not run its deployment within {timeout_s:.0f} s, status {status}; "
                    f"see python -m twin logs {thing}"
                )
            time.sleep(_POLL_S)

    def _effective(self, greengrass: Any, thing: str, wanted: set[str]) -> tuple[str, str, str]:
        """Status, reason and id of the deployment that the device should run; "not joined" before its first message."""
        try:
            found = greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
        except greengrass.exceptions.ResourceNotFoundException:
            return "not joined", "", ""
        for deployment in found:
            if deployment["deploymentId"] in wanted:
                status = deployment["coreDeviceExecutionStatus"]
                cause = self._cause(deployment["iotJobId"], thing) if status in _FINAL - {"SUCCEEDED"} else ""
                reason = ": ".join(filter(None, (deployment.get("reason"), cause)))
                return status, reason, deployment["deploymentId"]
        return "no deployment yet", "", ""

    def _cause(self, job: str, thing: str) -> str:
        """What the device reported to the deployment's IoT job; the Greengrass API names the kind of failure only."""
        execution = self.client("iot").describe_job_execution(jobId=job, thingName=thing)["execution"]
        details: dict[str, str] = execution.get("statusDetails", {}).get("detailsMap", {})
        return details.get("deployment-failure-cause", "")
