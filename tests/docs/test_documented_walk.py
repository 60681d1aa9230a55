"""README, tutorial and how-tos as a reader follows them: every command, word for word, in a copy of the app.

What is not run here stands in `NOT_RUN` with the reason; tests/integration/test_installed_app.py runs docs/packages.md.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import skl2onnx
import skops.io
from markdown_it import MarkdownIt
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from config.places import PROJECT as ROOT
from tests.app_copy import copy_app

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
LIMIT_S = 300
ACCOUNT, MINUTES, NETWORK = "needs an AWS account", "takes minutes", "needs package registries"
#: Pattern of a whole line, and why it is not run.
NOT_RUN = {
    r"make (demo|test)( .*)?": f"{MINUTES}; CI runs it",
    r"make setup(-\w+)?( && source .*)?": f"{NETWORK}; CI runs it, and tests/unit/test_set_up.py",
    r"make (synth|compliance)": f"{MINUTES}; CI runs it",
    r"make (plan|bill) .*": "sets up first; its tool is run by tests/plan and tests/unit/test_assembly.py",
    r"make deploy .*": ACCOUNT,
    r"aws .*": ACCOUNT,
    r"npx cdk (bootstrap aws://.*|import .*)": ACCOUNT,
    r"npx cdk .*-c stage=(dev|prod).*": ACCOUNT,
    r"python -m tools\.(predict|fleet_page) .*": f"{ACCOUNT}; tests/twin/test_predict_on_aws.py does it on the twin",
    r"python -m tools\.doctor --network": NETWORK,
    r"python -m tools\.doctor --stage dev": ACCOUNT,
    r".*python -m tools\.fresh_clone .*": f"{MINUTES}, {NETWORK}",
    r"python -m tools\.migrate_group .*": "its group comes from an account; tests/integration/test_migrated_groups.py",
    r"python -m tools\.(train_\w+|export_resnet18)": f"{MINUTES}; tests/integration/test_offline_deploy.py trains one",
    r"\.venv-\w+/bin/python .*": "needs PyTorch or SageMaker's SDK; make sagemaker runs the latter",
    r"make openvino": f"{NETWORK}, for an environment of its own",
    r"python3 tools/set_up\.py cuda && .*": f"{NETWORK}, and a card",
    r"python benchmarks/.*": f"{MINUTES}: a measurement",
    r"cat > kept\.json <<END|\{\"ArtifactsAccessLog.*|END": ACCOUNT,
    r"(sudo|systemctl|journalctl) .*": "runs on a device",
    r"python -m twin up --(devices [1-9]|simulated [1-9]).*": "tens of processes; tests/twin/test_device_fleets.py",
    r"python -m twin logs board-1": "its device must have come, and needs a machine; tests/twin/test_membership.py",
    r"python -m twin fault device-01 mqtt": "its device is one of those; the edge server has the same fault here",
    r"python -m twin device camera-1.*|cd camera-1|python client\.py .*|python -m twin fault CORE .*": (
        "needs a stage with client devices; tests/twin/test_client_devices.py"
    ),
    r"python -m tools\.(rehearse|fleet_export) .*": f"{ACCOUNT}, whose fleet is exported",
    r"python -m tools\.plan .*": f"{MINUTES}; tests/plan does it",
    r"sleep 60": "other commands pass the time, and the command after it is repeated until it succeeds",
}
#: Pages whose commands tests/integration/test_installed_app.py runs.
ELSEWHERE = {"docs/packages.md"}
PAGES = ("README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))))
#: What a command must say, as its page has it; for one that goes on until Ctrl-C what ends the wait.
SAYS = {
    "python -m twin up": r"The twin (is up after .*|runs already: .*) Next: eval",
    "npx cdk bootstrap": r"Environment aws://000000000000/us-east-1 bootstrapped",
    "npx cdk deploy --all --require-approval never --concurrency 5": r"Inference \(edgewright-twin-inference\)\n",
    "python -m twin status": r"The twin runs: .*\n(.*\n)*  edge server: edgewright-twin-edge-server running ",
    "python -m twin predict digits --index 7": r"sample 7 is \d\n.* says \(digits .*\): \d\n",
    "python -m twin predict iris --features '[5.1, 3.5, 1.4, 0.2]'": r"(?m)^setosa +0\.9",
    "python -m twin predict iris --features '[5.1, 3.5]' || true": r"error: .*InvalidRequest: .*features.* 4.* 2",
    "python -m twin fault edgewright-twin-edge-server mqtt": r"edgewright-twin-edge-server",
    "python -m twin predict digits --index 8": r"sample 8 is \d\n.* says \(digits .*\): \d\n",
    "python -m tools.model init wine.onnx": r"made .*/wine;.*\n.*twin.toml lists wine now in place of iris\nnext: npx",
    "python -m tools.model init net.onnx": r"made .*/net;",
    "python -m tools.model init yolo.onnx": r"the outputs are read as form grid.*\nmade .*/yolo;",
    "python -m tools.model init --from vine.skops": r"what the estimator gives.*\n(.*\n)*made .*/vine;",
    "python -m twin predict wine": r"says \(wine .*\): barolo\nbarolo +[01]\.\d+",
    "python -m twin predict net": r"says \(net .*\): \d+\n",
    "python -m twin predict yolo": r"says \(yolo .*\): \d+ objects in \d+ x \d+ pixels",
    "python -m tools.model check edge_assets/models/iris": r"(\d+ of \d+ samples right|setosa [01]\.)",
    "python -m tools.doctor": r"(?m)^ok +python: CPython 3\.",
    "python -m twin join board-1": r"board-1 may join \(thing groups: edgewright-twin\)\. Next: .*README\.md",
    "python -m twin leave board-1": r"board-1 has left\.",
    "npx cdk destroy --all --force --concurrency 5": r"Storage \(edgewright-twin-storage\): destroyed",
    "python -m twin inventory": r"^Nothing is left\.\n",
    "python -m twin down": r"The twin is stopped\.",
}
UNTIL_INTERRUPTED = {
    "python -m twin predict --watch": r"\d\d:\d\d:\d\d ",
    "python -m twin ui": r"http://127\.0\.0\.1:\d+/\S+",
    "python -m twin logs --follow": r"\S+\n",
}
#: Asked again until it is answered: the pages promise that it is, within a minute.
PATIENT = (
    "python -m twin predict digits --index 8",
    *(f"python -m twin predict {name} " for name in ("wine", "net", "yolo")),
)
#: Page and which of its snippets, in the order of the walk.
WALK = (
    *(("docs/tutorial.md", number) for number in (1, 2, 3)),
    ("README.md", 1),
    ("docs/ui.md", 0),
    *(("docs/workloads.md", number) for number in (1, 2, 0)),
    ("docs/set-up.md", 0),
    ("docs/twin.md", 0),
    ("docs/twin.md", 1),
    ("docs/tutorial.md", 4),
)


def snippets(page: str) -> list[list[str]]:
    """The lines of a page's shell snippets, without what explains them."""
    return [
        [text for line in token.content.splitlines() if (text := re.sub(r"(^|\s+)#.*", "", line).strip())]
        for token in MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))
        if token.type == "fence" and token.info == "sh"
    ]


def reason(line: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, line)), None)


def rank(line: str) -> int:
    """What needs the device comes when it has noticed its fault, and what takes all away comes last."""
    if line.startswith(("npx cdk destroy", "python -m twin inventory", "python -m twin down")):
        return 3
    if line in UNTIL_INTERRUPTED:
        return 2
    return int(line.startswith(PATIENT))


def walk() -> list[str]:
    """What is run: each line once."""
    lines: dict[str, None] = {}
    for page, number in WALK:
        for line in snippets(page)[number]:
            if not reason(line) and not lines.keys() >= set(parts(line)):
                lines[line] = None
    return sorted(lines, key=rank)


def parts(line: str) -> list[str]:
    return line.split(" && ")


def test_every_command_is_run_or_has_a_reason_not_to_be() -> None:
    run = {part for line in walk() for part in parts(line)}
    documented = [(page, line) for page in PAGES if page not in ELSEWHERE for each in snippets(page) for line in each]

    assert len(run) > 25
    assert [(page, line) for page, line in documented if not reason(line) and not run.issuperset(parts(line))] == []
    idle = {pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for _page, line in documented)}
    assert idle == set(), "no page has such a command any more"
    said = {text for text in (*SAYS, *UNTIL_INTERRUPTED) if not any(line.startswith(text) for line in run)}
    assert said == set(), "nothing that is run begins so"


class Shell:
    """A reader's shell.

    Args:
        folder: Where it begins.
        home: The twin's state folder.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("TWIN_", "JSII_"))}
        environment |= {"TWIN_HOME": str(home), "COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}
        # As a reader at a terminal answers; and what the command line keeps below the home folder is a twin's only.
        environment |= {"CDK_REQUIRE_APPROVAL": "never", "CDK_HOME": str(home.parent / "cdk")}
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._number = 0

    def run(self, line: str) -> tuple[int, str]:
        """Run a line; its exit code and what it said."""
        self._number += 1
        mark = f"__{self._number}__"
        assert self._process.stdin
        assert self._process.stdout
        # In braces: what a command reads is not the reader's next line.
        self._process.stdin.write(f"{{ {line}\n}} </dev/null\necho {mark} $?\n")
        self._process.stdin.flush()
        said: list[str] = []
        for text in self._process.stdout:
            if text.startswith(mark):
                return int(text.split()[1]), "".join(said)
            said.append(text)
        raise AssertionError(f"{line} ended the shell: {''.join(said)}")

    def run_until(self, line: str, pattern: str, meanwhile: str) -> str:
        """Run what goes on until Ctrl-C; press it once the pattern has come."""
        _code, where = self.run("mktemp")
        log = Path(where.strip())
        # With job control, so that it is not deaf to an interrupt.
        self.run(f"set -m; {line} >{log} 2>&1 & set +m")
        _code, pid = self.run("echo $!")
        deadline = time.monotonic() + 60
        while not re.search(pattern, log.read_text()):
            assert time.monotonic() < deadline, f"{line} has not said {pattern} within 60 s: {log.read_text()}"
            if meanwhile:
                self.run(meanwhile)
            time.sleep(0.2)
        os.kill(int(pid), signal.SIGINT)
        code, _said = self.run("wait $!")
        text = log.read_text()
        log.unlink()
        assert code in (0, 130), text
        assert "Traceback" not in text, text
        return text

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)


def write_models(folder: Path) -> None:
    """The files that docs/workloads.md has a reader bring: a table's, a picture's and a detector's model."""
    rows, kinds = load_wine(return_X_y=True)
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows.astype(np.float32), kinds)
    made = skl2onnx.to_onnx(fitted, rows[:1].astype(np.float32), options={"zipmap": False})
    (folder / "wine.onnx").write_bytes(made.SerializeToString())
    skops.io.dump(fitted, folder / "vine.skops")
    models = ROOT / "edge_assets" / "models"
    for name, source in (("net.onnx", "image-classification/model.onnx"), ("yolo.onnx", "digit-detector/model.onnx")):
        (folder / name).write_bytes((models / source).read_bytes())
    (folder / "photo.jpg").write_bytes((models / "image-classification" / "image.jpg").read_bytes())


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    app = copy_app(tmp_path / "app")
    (app / ".venv").symlink_to(ROOT / ".venv")
    write_models(app)
    # What was started with interrupts ignored, as in the background of a script, would hand that on.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reader = Shell(app, tmp_path / "twin")
    signal.signal(signal.SIGINT, before)
    try:
        yield reader
    finally:
        reader.close()
        down = [sys.executable, "-m", "twin", "down", "--purge"]
        subprocess.run(
            down, cwd=ROOT, env={**os.environ, "TWIN_HOME": str(tmp_path / "twin")}, timeout=120, check=False
        )


def test_a_reader_gets_what_the_pages_promise(shell: Shell) -> None:
    for line in walk():
        began = time.monotonic()
        # A file of labels has as many lines as its model has classes.
        shell.run(f"seq {10 if 'yolo' in line else 1000} > labels.txt")
        if line in UNTIL_INTERRUPTED:
            meanwhile = "python -m twin predict digits --index 1" if "--watch" in line else ""
            shell.run_until(line, UNTIL_INTERRUPTED[line], meanwhile)
        else:
            code, said = shell.run(line)
            while code and line.startswith(PATIENT) and time.monotonic() - began < 120:
                code, said = shell.run(line)
            assert code == 0, f"{line}\n{said}"
            assert "Traceback" not in said, f"{line}\n{said}"
            for text, pattern in SAYS.items():
                if line.startswith(text):
                    assert re.search(pattern, said), f"{line} must say {pattern}, got:\n{said}"
        print(f"{time.monotonic() - began:6.1f} s  {line}")  # noqa: T201
