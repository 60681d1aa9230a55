"""A stand-in for the machine that the user data runs on: every command it calls, recorded, and scripted to fail."""

import base64
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from edge_constructs.edge_assets import EDGE_SERVER, user_data_script

SCRIPTS = sorted(EDGE_SERVER.glob("*.sh"))
#: Id of the certificate that the join function gives.
CERTIFICATE = "0123abcd"
JOINED = "aws lambda invoke --function-name edgewright-dev-join --payload fileb://"
NUCLEUS = b"the nucleus, zipped"
# The real certificate, public: the script finds it in a trust store by its digest.
ROOT_CA = Path(__file__).with_name("amazon_root_ca_1.pem")

# Each call is one line: the command and its arguments. `fails` names calls by a prefix, with how often they fail.
# A shell script: dozens of calls run in a test, and an interpreter of Python takes ten times as long to start.
STAND_IN = r"""#!/bin/sh
set -eu
home=$STAND_IN name=${0##*/}
call="$name${*:+ $*}"
printf '%s\n' "$call" >> "$home/calls"
if [ "$name" = logger ]; then  # runs beside the script: it must not read what the others write
    exec cat >> "$home/journal"
fi
left="" told=""
while IFS='|' read -r times prefix; do
    if [ -z "$told" ] && [ "$times" -gt 0 ]; then
        case $call in "$prefix"*) told=yes times=$((times - 1)) ;; esac
    fi
    left="$left$times|$prefix
"
done < "$home/fails"
if [ "$told" ]; then
    printf %s "$left" > "$home/fails"
    echo "$name is told to fail" >&2
    exit 1
fi
after() {  # the argument behind an option
    wanted=$1
    shift
    while [ "$1" != "$wanted" ]; do shift; done
    printf '%s\n' "$2"
}
case "$name $* " in
    curl\ *" PUT "*) cat > "$home/signal" ;;
    curl\ *) cat "$home/download" > "$(after --output "$@")" ;;
    unzip\ *)
        folder=$(after -d "$@")
        mkdir -p "$folder/lib"
        : > "$folder/lib/Greengrass.jar"
        : > "$folder/aws-greengrass-lite-2.6.0-Linux.deb" ;;
    java\ *"--version "* | docker\ *"--version "*) echo "AWS Greengrass v2.14.3" ;;
    docker\ import\ *) cat > /dev/null ;;
    docker\ inspect\ *) echo "true 0" ;;
    dnf\ *" --installroot "*) mkdir "$(after --installroot "$@")" ;;
    apt-get\ *"-Linux.deb ")  # as the package's own script does
        mkdir -p "$EDGEWRIGHT_ETC/config.d"
        printf 'services:\n  x:\n    configuration:\n      runWithDefault:\n        posixUser: "ggcore:ggcore"\n' \
            > "$EDGEWRIGHT_ETC/config.d/greengrass-lite.yaml" ;;
    install\ *" ggcore "*)
        for folder; do :; done
        mkdir -p "$folder" ;;
    install\ *) exec /usr/bin/install "$@" ;;
    aws\ lambda\ *)
        for answer; do :; done
        payload=$(after --payload "$@")
        cat "${payload#fileb://}" >> "$home/asked"
        echo >> "$home/asked"
        if [ -e "$home/refusal" ]; then
            cat "$home/refusal" > "$answer"
            echo Unhandled
        else
            cat "$home/joined" > "$answer"
            echo None
        fi ;;
    openssl\ *)
        printf key > "$(after -keyout "$@")"
        printf -- '-----BEGIN\nrequest\n' > "$(after -out "$@")" ;;
    runuser\ *) exit 7 ;;
esac
"""
COMMANDS = (
    *("apt-get", "aws", "chown", "curl", "dnf", "docker", "dpkg", "install", "java", "logger", "openssl", "rpm"),
    *("runuser", "sleep", "snap", "systemctl", "unzip", "useradd"),
)
ANSWER = {
    "certificatePem": "certificate",
    "certificateId": CERTIFICATE,
    "dataEndpoint": "abc-ats.iot.example",
    "credentialEndpoint": "abc.credentials.iot.example",
}
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
            "JOIN_FUNCTION": "edgewright-dev-join",
            "ROLE_ALIAS": "edgewright-dev-token-exchange",
            "ARTIFACT_BUCKET": "artifacts-dev",
            "NUCLEUS_URL": "https://downloads.example/nucleus.zip",
            "NUCLEUS_SHA256": hashlib.sha256(NUCLEUS).hexdigest(),
            "PYTHON": "3.12",
            "SIGNAL_URL": SIGNAL_URL,
        }
    )

    def __post_init__(self) -> None:
        (self.home / "bin").mkdir()
        (self.home / "tmp").mkdir()
        (self.home / "units").mkdir()
        for name in COMMANDS:
            self.stand_in(name, STAND_IN)
        (self.home / "download").write_bytes(NUCLEUS)
        (self.home / "joined").write_text(json.dumps(ANSWER))
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
        (self.home / "fails").write_text("".join(f"{times}|{prefix}\n" for prefix, times in calls.items()))

    def refuse(self, cause: str | None) -> None:
        """Let the join function refuse everything for this reason, or nothing."""
        refusal = self.home / "refusal"
        refusal.unlink(missing_ok=True)
        if cause is not None:
            refusal.write_text(json.dumps({"errorMessage": cause, "errorType": "JoinError"}))

    def asked(self) -> list[dict[str, str]]:
        """What the join function was asked in the last run, in order."""
        return [json.loads(line) for line in (self.home / "asked").read_text().splitlines()]

    def stand_in(self, name: str, script: str) -> None:
        """Let a command be this shell script."""
        command = self.home / "bin" / name
        command.write_text(script)
        command.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the exports and the script, as the instance would."""
        (self.home / "calls").write_text("")
        (self.home / "journal").write_text("")
        (self.home / "asked").write_text("")
        (self.home / "signal").unlink(missing_ok=True)
        exports = "".join(f"export EDGEWRIGHT_{key}='{value}'\n" for key, value in self.settings.items())
        script = user_data_script(self.nucleus)
        environment = {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "STAND_IN": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            "EDGEWRIGHT_ROOT": str(self.root),
            "EDGEWRIGHT_ETC": str(self.home / "etc"),
            "EDGEWRIGHT_UNITS": str(self.home / "units"),
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
