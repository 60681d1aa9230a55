"""A stand-in for the machine that the user data runs on: every command it calls, recorded, and scripted to fail."""

import base64
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from edge_constructs.edge_assets import EDGE_SERVER, user_data_script
from tests.stand_in import write_stand_in

SCRIPTS = sorted(EDGE_SERVER.glob("*.sh"))
ARN = "arn:aws:iot:eu-west-1:111122223333:cert/0123abcd"
NUCLEUS = b"the nucleus, zipped"
# The real certificate, public: the script finds it in a trust store by its digest.
ROOT_CA = Path(__file__).with_name("amazon_root_ca_1.pem")

# Each call is one line: the command and its arguments. `fails` names calls by a prefix, with how often they fail.
STAND_IN = r"""import json, os, pathlib, sys
home = pathlib.Path(os.environ["STAND_IN"])
name = pathlib.Path(sys.argv[0]).name
call = " ".join([name, *sys.argv[1:]])
with (home / "calls").open("a") as calls:
    calls.write(call + "\n")
if name == "logger":  # runs beside the script: it must not read what the others write
    with (home / "journal").open("a") as journal:
        for line in sys.stdin:
            journal.write(line)
    sys.exit()
fails = json.loads((home / "fails.json").read_text())
for prefix, times in fails.items():
    if call.startswith(prefix) and times:
        fails[prefix] = times - 1
        (home / "fails.json").write_text(json.dumps(fails))
        sys.exit(f"{name} is told to fail")
def after(option):
    return sys.argv[sys.argv.index(option) + 1]
if name == "curl" and "PUT" in sys.argv:
    (home / "signal").write_text(sys.stdin.read())
elif name == "curl":
    pathlib.Path(after("--output")).write_bytes((home / "download").read_bytes())
elif name == "unzip":
    jar = pathlib.Path(after("-d")) / "lib" / "Greengrass.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    (jar.parents[1] / "aws-greengrass-lite-2.6.0-Linux.deb").touch()
elif name == "java" and "--version" in sys.argv or name == "docker" and "--version" in sys.argv:
    print("AWS Greengrass v2.14.3")
elif name == "docker" and sys.argv[1] == "import":
    sys.stdin.buffer.read()
elif name == "docker" and sys.argv[1] == "inspect":
    print("true 0")
elif name == "dnf" and "--installroot" in sys.argv:
    pathlib.Path(after("--installroot")).mkdir()
elif name == "install" and "ggcore" in sys.argv:
    pathlib.Path(sys.argv[-1]).mkdir(parents=True, exist_ok=True)
elif name == "install":
    os.execv("/usr/bin/install", sys.argv)
elif name == "aws" and "create-keys-and-certificate" in sys.argv:
    pathlib.Path(after("--certificate-pem-outfile")).write_text("certificate")
    pathlib.Path(after("--private-key-outfile")).write_text("key")
    print(os.environ["STAND_IN_ARN"])
elif name == "aws" and "describe-endpoint" in sys.argv:
    kind = after("--endpoint-type")
    print("abc-ats.iot.example" if kind == "iot:Data-ATS" else "abc.credentials.iot.example")
"""
COMMANDS = (
    *("apt-get", "aws", "chown", "curl", "dnf", "docker", "dpkg", "install", "java", "logger", "rpm", "sleep"),
    *("snap", "systemctl", "unzip"),
)
SIGNAL_URL = "https://cloudformation-waitcondition.example/signal?Signature=abc"


@dataclass
class System:
    """A machine below one folder.

    Args:
        home: An empty folder.
        nucleus: What the script installs.
        settings: The exports in front of the script, without their prefix.
    """

    home: Path
    nucleus: str = "classic"
    settings: dict[str, str] = field(
        default_factory=lambda: {
            "REGION": "eu-west-1",
            "STAGE": "dev",
            "THING_NAME": "edgewright-dev-edge-server",
            "THING_GROUP": "edgewright-dev",
            "IOT_POLICY": "edgewright-dev-core-device",
            "ROLE_ALIAS": "edgewright-dev-token-exchange",
            "ARTIFACT_BUCKET": "artifacts-dev",
            "NUCLEUS_URL": "https://downloads.example/nucleus.zip",
            "NUCLEUS_SHA256": hashlib.sha256(NUCLEUS).hexdigest(),
            "SIGNAL_URL": SIGNAL_URL,
        }
    )

    def __post_init__(self) -> None:
        (self.home / "bin").mkdir()
        (self.home / "tmp").mkdir()
        for name in COMMANDS:
            write_stand_in(self.home / "bin" / name, STAND_IN)
        (self.home / "download").write_bytes(NUCLEUS)
        other = base64.encodebytes(b"another authority").decode()
        self.trust_store = self.home / "bundle.pem"
        another = f"-----BEGIN CERTIFICATE-----\n{other}-----END CERTIFICATE-----"
        self.trust_store.write_text(f"# Another\n{another}\n\n# Amazon\n{ROOT_CA.read_text()}")
        self.fail({"rpm": 1, "dpkg": 1})

    @property
    def root(self) -> Path:
        """Where the nucleus is installed."""
        return self.home / "greengrass" / "v2"

    def fail(self, calls: dict[str, int]) -> None:
        """Let calls that start so fail as often as told."""
        (self.home / "fails.json").write_text(json.dumps(calls))

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the exports and the script, as the instance would."""
        (self.home / "calls").write_text("")
        (self.home / "journal").write_text("")
        (self.home / "signal").unlink(missing_ok=True)
        exports = "".join(f"export EDGEWRIGHT_{key}='{value}'\n" for key, value in self.settings.items())
        script = user_data_script(self.nucleus)
        environment = {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "STAND_IN": str(self.home),
            "STAND_IN_ARN": ARN,
            "TMPDIR": str(self.home / "tmp"),
            "EDGEWRIGHT_ROOT": str(self.root),
            "EDGEWRIGHT_ETC": str(self.home / "etc"),
            "EDGEWRIGHT_CA_BUNDLE": str(self.trust_store),
        }
        return subprocess.run(
            ["bash", "-c", exports + script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, prefix: str = "") -> list[str]:
        """The calls of the last run that start so, in order."""
        return [line for line in (self.home / "calls").read_text().splitlines() if line.startswith(prefix)]

    def signal(self) -> dict[str, str] | None:
        """What CloudFormation was told, if anything."""
        sent = self.home / "signal"
        return json.loads(sent.read_text()) if sent.exists() else None

    def journal(self) -> list[str]:
        """The lines that the last run logged."""
        return (self.home / "journal").read_text().splitlines()
