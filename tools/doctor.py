"""Looks at what this machine, and an account, need for what one is about to do; each fault comes with its fix.

python -m tools.doctor                              this machine
python -m tools.doctor --network                    the package registries and the clock, too
python -m tools.doctor --stage dev                  the account of this shell's credentials, too; it only reads
python -m tools.doctor --bundle out/support.zip     what to send with a question, without secrets

Exit code 0 when nothing must be mended, else 1.
"""

import argparse
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from http.client import HTTPException
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import boto3
import psutil
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from config.loader import ConfigurationError, load_stage, read_context
from config.places import INSTALLED, NODE_MODULES, WHEELHOUSE
from config.places import PROJECT as ROOT
from config.stage import Stage
from tools.node import node_binary
from tools.set_up import ENVIRONMENTS
from twin import TwinError
from twin.ports import free_ports
from twin.state import default_home, load_state

LOG_BYTES = 200_000
_FILES = ("config/*.toml", "cdk.json", "out/demo.json", "out/demo/*.log", "out/*/validation-report.json")
_TELLING = r"[\w.-]*(?:secret|token|passw(?:or)?d|authorization|signature|credential|cookie|svcuid|api_?key)[\w.-]*"
_PATTERNS = (
    (r"-----BEGIN [^-]+-----.*?(?:-----END [^-]+-----|\Z)", "[PEM]"),
    (r"(?<![\w/])(?:A3T|AKIA|ASIA|AGPA|AIDA|AROA)[A-Z0-9]{12,}", "[key id]"),
    (r"\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?", "[token]"),
    (r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)", "[login]"),
    (
        rf"(?i)((?<![\w-]){_TELLING}[\"']?\s*[:=]\s*)(?:(?:bearer|basic)\s+)?(?:\"[^\"]*\"|'[^']*'|[^\s,;&}}\]]+)",
        r"\1[secret]",
    ),
    # Base64 of a key whose first line was cut off; a digest in hex has no capitals.
    (r"(?<![\w+/=-])(?=[^\s]*[A-Z])(?=[^\s]*[a-z])(?=[^\s]*\d)[A-Za-z0-9+/]{60,}={0,2}", "[long text]"),
    (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", "[address]"),
    (r"(?<![\d.])(?!0{12})\d{12}(?![\d.])", "[account]"),
)
_COMPILED = tuple((re.compile(pattern, re.DOTALL), replacement) for pattern, replacement in _PATTERNS)


def redacted(text: str, literals: Iterable[str] = ()) -> str:
    """Take secrets out of a text, and what tells who and where somebody is.

    Args:
        text: Any.
        literals: Secrets that are known.
    """
    for literal in sorted(set(literals), key=len, reverse=True):
        text = text.replace(literal, "[secret]")
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    home, host = str(Path.home()), platform.node()
    text = text.replace(home, "~") if len(home) > 1 else text
    return text.replace(host, "[host]") if len(host) > 3 else text


def known_secrets(home: Path) -> Iterator[str]:
    """Values that must not leave this machine: of the environment, by their names, and the twin's own."""
    for name, value in os.environ.items():
        if len(value) >= 6 and re.search(r"(?i)secret|token|passw|key|credential", name):
            yield value
    try:
        state = json.loads((home / "state.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if isinstance(state, dict) and state.get("secret"):
        yield str(state["secret"])


def _begin_or_end(path: Path) -> str:
    """A file's text: of a log its end; of one that cannot be read why, which may be what the question is about."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - LOG_BYTES) if path.suffix == ".log" else 0)
            return stream.read(2 * LOG_BYTES).decode(errors="replace")
    except OSError as exc:
        return f"cannot be read: {exc}"


def write_bundle(file: Path, report: str, root: Path, home: Path) -> list[str]:
    """Write the bundle.

    Args:
        file: A zip file, made anew.
        report: What the doctor found.
        root: The repository.
        home: The twin's state folder; only logs are taken from it.

    Returns:
        Names of the files in it.

    Raises:
        OSError: It cannot be written.
    """
    versions = "\n".join(sorted({f"{each.name} {each.version}" for each in distributions()}))
    texts = {"doctor.txt": report, "versions.txt": f"{platform.platform()}, {platform.python_version()}\n{versions}\n"}
    paths = {path.relative_to(root).as_posix(): path for pattern in _FILES for path in root.glob(pattern)}
    # What makes certificates is loaded with it; a report of this machine must not fail for want of that.
    with suppress(ImportError):
        from twin.status import find_logs

        paths |= {f"twin/{name}.log": path for name, path in find_logs(home, "").items()}
    for name, path in paths.items():
        if path.is_file() and not path.is_symlink():
            texts[name] = _begin_or_end(path)
    secrets = list(known_secrets(home))
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, redacted(text, secrets))
    return list(texts)


OK, WARNING, FAULT = "ok", "warning", "fault"
GIB = 1 << 30
DISK_GIB, MEMORY_GIB, OPEN_FILES = 3.0, 1.5, 1024
SKEW_S, ANSWER_S = 60, 5
#: What the CDK's assemblies here ask for, and what a new account has, which is enough.
BOOTSTRAP_VERSION, CONCURRENCY = 6, 10
_QUALIFIER = "@aws-cdk/core:bootstrapQualifier"
_BOUNDED = Config(connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 2})
Clients = Callable[[str], Any]


@dataclass(frozen=True)
class Finding:
    """What a look at one thing found.

    Attributes:
        what: The thing.
        state: `ok`, `warning` (it may do), or `fault`.
        found: In words.
        fix: What to do; empty where nothing is.
    """

    what: str
    state: str
    found: str
    fix: str = ""


def judged(what: str, good: bool, found: str, fix: str, otherwise: str = FAULT) -> Finding:
    """A finding with a fix unless it is good."""
    return Finding(what, OK, found) if good else Finding(what, otherwise, found, fix)


def of_machine(root: Path = ROOT) -> Iterator[Finding]:
    """Look at this machine.

    Args:
        root: The repository.
    """
    version = sys.version_info[:2]
    good = platform.python_implementation() == "CPython" and (3, 11) <= version <= (3, 14)
    text = f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield judged("python", good, text, "make setup PYTHON=python3.13, or another of 3.11 to 3.14")
    for name, folder in (("disk", root), ("temporary folder", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GIB
        fix = f"make {DISK_GIB:g} GiB free, or set TMPDIR to another disk" if name != "disk" else "make room"
        yield judged(name, free >= DISK_GIB, f"{free:.1f} GiB free for {folder}", fix, FAULT if free < 1 else WARNING)
    memory = psutil.virtual_memory().available / GIB
    yield judged("memory", memory >= MEMORY_GIB, f"{memory:.1f} GiB available", "end other programs", WARNING)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    good = files == resource.RLIM_INFINITY or files >= OPEN_FILES
    yield judged("open files", good, f"{files} a process", f"ulimit -n {OPEN_FILES}", WARNING)
    try:
        yield Finding("ports", OK, f"127.0.0.1 gives ports such as {free_ports(1)[0]}")
    except OSError as exc:
        yield Finding(
            "ports", FAULT, f"127.0.0.1 gives none: {exc}", "bring the loopback interface up: ip link set lo up"
        )
    yield from _of_set_up(root)
    try:
        state = load_state(default_home())
        yield Finding("twin", OK, f"{'runs' if state and state.running else 'does not run'} in {default_home()}")
    except TwinError as exc:
        yield Finding("twin", FAULT, str(exc), "python -m twin down --purge")


def _of_set_up(root: Path) -> Iterator[Finding]:
    needed = ("aws_cdk", "boto3", "ministack", "onnxruntime", "paho", "PIL")
    missing = [name for name in needed if find_spec(name) is None]
    yield judged("packages", not missing, f"missing: {', '.join(missing)}" if missing else "as set up", "make setup")
    venv = root / ENVIRONMENTS["run"].folder
    node = venv / "bin" / "node"
    if INSTALLED:
        with suppress(FileNotFoundError):
            node = node_binary()
    for name, path in (
        ("cdk command", (NODE_MODULES if INSTALLED else root / "node_modules") / ".bin" / "cdk"),
        ("node", node),
        ("wheels of the devices", WHEELHOUSE if INSTALLED else venv / ".wheelhouse"),
    ):
        place = path.relative_to(root) if path.is_relative_to(root) else path
        yield judged(name, path.exists(), str(place) if path.exists() else "missing", "make setup")
    git = shutil.which("git")
    yield judged("git", git is not None, git or "missing", "install git: make plan and make lint need it", WARNING)


def of_network() -> Iterator[Finding]:
    """Ask the package registries that pip and npm are told to use; each within 5 s."""
    pip = os.environ.get("PIP_INDEX_URL") or _said(sys.executable, "-m", "pip", "config", "get", "global.index-url")
    npm = _said("npm", "config", "get", "registry")
    for name, url in (("python registry", pip or "https://pypi.org/simple/"), ("npm registry", npm)):
        fix = "set the registry and the proxy as docs/set-up.md says"
        # urllib would read files, too.
        if not url.startswith(("https://", "http://")):
            yield Finding(name, WARNING, f"unknown, got {url!r}", fix)
            continue
        try:
            # The login of a private registry is not this look's: a refusal is an answer, too.
            parts = urlsplit(url)
            url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310
                yield Finding(name, OK, f"answers with {answer.status}")
                date = answer.headers.get("Date")
        except urllib.error.HTTPError as exc:
            yield judged(name, exc.code < 500, f"answers with {exc.code}", fix)
            date = exc.headers.get("Date")
        except (OSError, ValueError, HTTPException) as exc:
            yield Finding(name, FAULT, f"does not answer: {exc or type(exc).__name__}", fix)
            continue
        if date:
            with suppress(ValueError):  # what no clock says
                yield of_clock(date, name)


def of_clock(date: str, whose: str) -> Finding:
    """Compare this machine's clock with the Date of an answer."""
    skew = time.time() - parsedate_to_datetime(date).timestamp()
    text = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the {whose}"
    return judged("clock", abs(skew) <= SKEW_S, text, "set the clock (timedatectl set-ntp true): signatures fail by it")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S * 4, check=False, cwd=ROOT)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def of_account(stage: Stage, clients: Clients, root: Path = ROOT) -> Iterator[Finding]:
    """Look at the account that the credentials lead to; nothing is changed.

    Args:
        stage: What is to be deployed.
        clients: Makes an AWS client in the stage's region.
        root: The repository.
    """
    login = "set AWS_PROFILE or keys, or run aws sso login"
    try:
        identity = clients("sts").get_caller_identity()
    except (ClientError, BotoCoreError) as exc:
        yield Finding("credentials", FAULT, str(exc), login)
        return
    yield Finding("credentials", OK, identity["Arn"])
    if date := identity["ResponseMetadata"]["HTTPHeaders"].get("date"):
        yield of_clock(date, "account")
    fix = f"npx cdk bootstrap -c stage={stage.name}"
    try:
        name = f"/cdk-bootstrap/{_qualifier(root / 'cdk.json')}/version"
    except ConfigurationError as exc:
        yield Finding("cdk.json", FAULT, str(exc), "correct it there, or restore it: git checkout cdk.json")
    else:
        yield _asked("bootstrap", fix, lambda: _bootstrap(clients("ssm"), name, fix))
    asks: list[tuple[str, Callable[[], Any]]] = [
        ("iot", lambda: clients("iot").describe_endpoint(endpointType="iot:Data-ATS")),
        ("greengrass", lambda: clients("greengrassv2").list_core_devices(maxResults=1)),
    ]
    if any(model.compiler == "neo" for model in stage.models):
        asks.append(("sagemaker", lambda: clients("sagemaker").list_compilation_jobs(MaxResults=1)))
    for service, ask in asks:
        fix = f"check that {stage.region} has it and that the role may ask it (docs/deploy.md, the deployer's rights)"
        yield _asked(service, fix, partial(_answering, service, ask))
    if stage.client_devices:
        fix = "aws greengrassv2 associate-service-role-to-account --role-arn ROLE (docs/client-devices.md)"
        yield _asked("greengrass's service role", fix, lambda: _service_role(clients("greengrassv2"), fix))
    fix = "ask for more: Service Quotas, AWS Lambda, Concurrent executions"
    yield _asked("lambda concurrency", fix, lambda: _concurrency(clients("lambda"), fix))
    room = "ask for more: Service Quotas, Amazon VPC, VPCs per Region; or delete one, unless the stage has its own"
    fix = "take another edge_server.instance_type; where some zones have it, a deploy that fails may succeed anew"
    yield _asked("edge server", fix, lambda: _offered(clients("ec2"), stage.instance_type, fix))
    yield _asked("VPCs", room, lambda: _networks(clients("ec2"), clients("service-quotas"), room))


def _qualifier(path: Path) -> str:
    """Read what the app's bootstrap is called by.

    Raises:
        ConfigurationError: The file is damaged.
    """
    context = read_context(path)
    qualifier = context.get(_QUALIFIER, "hnb659fds")
    if not isinstance(qualifier, str):
        raise ConfigurationError(f"{path.name}: {_QUALIFIER} must be a text, got {str(qualifier)[:80]}: correct it")
    return qualifier


def _asked(what: str, fix: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except (ClientError, BotoCoreError) as exc:
        return Finding(what, FAULT, str(exc), fix)


def _answering(service: str, ask: Callable[[], Any]) -> Finding:
    ask()
    return Finding(service, OK, "answers")


def _bootstrap(ssm: Any, name: str, fix: str) -> Finding:
    version = str(ssm.get_parameter(Name=name)["Parameter"]["Value"])
    good = version.isdecimal() and int(version) >= BOOTSTRAP_VERSION
    return judged("bootstrap", good, f"version {version}", fix)


def _service_role(greengrass: Any, fix: str) -> Finding:
    role = greengrass.get_service_role_for_account().get("roleArn")
    return judged("greengrass's service role", bool(role), str(role), fix)


def _concurrency(function: Any, fix: str) -> Finding:
    limit = function.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
    return judged("lambda concurrency", limit >= CONCURRENCY, f"{limit} at a time", fix, WARNING)


def _offered(ec2: Any, kind: str, fix: str) -> Finding:
    """AWS chooses the zone of a subnet, and not each has each type (EC2 User Guide, Find an instance type)."""
    of_kind = [{"Name": "instance-type", "Values": [kind]}]
    have = len(
        ec2.describe_instance_type_offerings(LocationType="availability-zone", Filters=of_kind)["InstanceTypeOfferings"]
    )
    of_region = [{"Name": "zone-type", "Values": ["availability-zone"]}]
    zones = len(ec2.describe_availability_zones(Filters=of_region)["AvailabilityZones"])
    return judged("edge server", have >= zones, f"{kind} in {have} of {zones} zones", fix, WARNING if have else FAULT)


def _networks(ec2: Any, quotas: Any, fix: str) -> Finding:
    used = len(ec2.describe_vpcs()["Vpcs"])
    try:
        quota = int(quotas.get_service_quota(ServiceCode="vpc", QuotaCode="L-F678F1CE")["Quota"]["Value"])
    except (ClientError, BotoCoreError):
        return Finding("VPCs", OK, f"{used} in use, the quota could not be read")
    return judged("VPCs", used < quota, f"{used} of {quota} in use", fix, WARNING)


def report_of(findings: Sequence[Finding]) -> str:
    """Write findings, a line each and a line for each fix."""
    lines = []
    for each in findings:
        lines.append(f"{each.state:<8} {each.what}: {each.found}")
        lines += [f"         fix: {each.fix}"] if each.state != OK else []
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.doctor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", help="look at the account for this stage, with the credentials of this shell")
    parser.add_argument("--network", action="store_true", help="ask the package registries, and compare the clock")
    parser.add_argument(
        "--bundle", type=Path, metavar="ZIP", help="write what to send with a question, secrets taken out"
    )
    options = parser.parse_args(arguments)
    findings = list(of_machine())
    findings += of_network() if options.network else []
    try:
        if options.stage:
            stage, session = load_stage(options.stage), boto3.Session()
            findings += of_account(
                stage, lambda service: session.client(service, region_name=stage.region, config=_BOUNDED)
            )
    except (ConfigurationError, BotoCoreError) as exc:
        findings.append(Finding("stage", FAULT, str(exc), "correct it there"))
    text = report_of(findings)
    print(text, end="")
    if options.bundle:
        try:
            names = write_bundle(options.bundle, text, ROOT, default_home())
        except OSError as exc:
            print(f"doctor: --bundle must be a file that can be written, got {options.bundle}: {exc}", file=sys.stderr)
            return 1
        print(f"{len(names)} files in {options.bundle}; look through it before you send it")
    return 1 if any(each.state == FAULT for each in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
