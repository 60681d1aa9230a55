"""The command `edgewright`: an app of one's own, its checks, the twin; a part is loaded when it is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from config.endings import settle_endings

try:
    from config.places import NODE_MODULES, PROJECT
except (ValueError, OSError) as exc:
    # Where the project is, each command must know; a shell may be in a folder that is gone.
    gone = "the working folder must be there, it is gone: cd to an app's"
    sys.exit(f"edgewright: {exc if isinstance(exc, ValueError) else gone}")

if TYPE_CHECKING:
    from tools.offline_deploy import OfflineDeploy
    from twin.state import TwinState

application = typer.Typer(
    help="Machine-learning models to fleets of edge devices: an app of your own, and a twin of AWS on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_PASSED_ON: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}
#: Commands that read their own arguments.
_TOOLS = {
    "doctor": ("tools.doctor", "Look at what this machine and an account need; each fault with its fix."),
    "model": ("tools.model", "Make a model's folder of an ONNX file, check it, show what it sees."),
    "plan": ("tools.plan", "Say what a change does to the fleet, without an account."),
    "bill": ("tools.bill", "Say what a stage costs in a month."),
    "wheelhouse": ("tools.wheelhouse", "Fetch the wheels that travel to devices."),
    "bundle": ("tools.bundle", "Fetch the packages of functions of Greengrass V1."),
}
_AWS = "--aws"
#: For the device to install and start what was deployed.
DEVICE_LIMIT_S = 300
StageName = Annotated[str, typer.Option("--stage", help="The stage.")]


class CommandError(Exception):
    """A command cannot go on; the text says why and what to do."""


@application.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The app's folder, new or empty.")],
    stage: Annotated[str, typer.Option("--stage", help="Name of the stage in AWS; the twin's comes anyway.")] = "dev",
    model: Annotated[
        str, typer.Option("--model", help="A model's folder, or iris, digits, digit-detector, image-classification.")
    ] = "iris",
) -> None:
    """Make a small app: a stage, one model, a test."""
    from edgewright import scaffold

    try:
        for line in scaffold.make(folder, stage, model):
            print(line)
    except scaffold.NewAppError as exc:
        raise CommandError(str(exc)) from exc


@application.command()
def setup() -> None:
    """Fetch what the app in this folder needs besides Python packages: CDK's command line, the devices' wheels."""
    from tools.set_up import SetUp, SetUpError

    if not (PROJECT / "package-lock.json").is_file():
        raise CommandError(f"the folder must be an app's, got {PROJECT} without package-lock.json: edgewright init DIR")
    try:
        SetUp(PROJECT).make_node(Path(sys.prefix), dev=False)
    except (SetUpError, OSError) as exc:
        raise CommandError(str(exc)) from exc
    for name in ("tools.wheelhouse", "tools.bundle"):
        if code := import_module(name).main(["--all-stages"]):
            raise typer.Exit(int(code))


@application.command()
def deploy(stage: StageName = "twin") -> None:
    """Deploy the app to a twin, which is started if none runs; to AWS: npx cdk deploy -c stage=dev --all."""
    from botocore.exceptions import BotoCoreError, ClientError

    from config.loader import ConfigurationError, load_stage
    from config.names import Names
    from tools.offline_deploy import CdkError, DeploymentError
    from twin import TwinError, lifecycle
    from twin.state import default_home

    if not NODE_MODULES.is_dir():
        raise CommandError(f"the CDK's command line must be in {NODE_MODULES}, it is not: edgewright setup")
    try:
        load_stage(stage)  # a mistake in it is told before anything starts
        state = lifecycle.start(default_home(), progress=lambda text: _say(f"twin: {text}"))
        app = _app(state, stage)
        for step in (app.synth, app.bootstrap, app.deploy):
            step()
        app.wait_for_device(Names(stage).edge_server, timeout_s=DEVICE_LIMIT_S)
    except (CdkError, ConfigurationError, DeploymentError, TwinError, BotoCoreError, ClientError, OSError) as exc:
        raise CommandError(str(exc)) from exc
    print(f"deployed {stage} to the twin in {state.home}; next: edgewright predict, or edgewright ui")


@application.command()
def destroy(stage: StageName = "twin") -> None:
    """Take the app away from the twin; edgewright twin inventory lists what is left."""
    from tools.offline_deploy import CdkError
    from twin import TwinError
    from twin.state import default_home, load_state

    try:
        state = load_state(default_home())
        if state is None or not state.running:
            raise CommandError(f"a twin must run in {default_home()}, got none: edgewright deploy")
        app = _app(state, stage)
        if not app.assembly.is_dir():
            fix = f"edgewright deploy --stage {stage}"
            raise CommandError(f"the templates of stage {stage} must be in {app.assembly}, they are not: {fix}")
        app.destroy()
    except (CdkError, TwinError, OSError) as exc:
        raise CommandError(str(exc)) from exc
    print(f"destroyed {stage}; next: edgewright twin inventory, edgewright twin down")


def _app(state: TwinState, stage: str) -> OfflineDeploy:
    from tools.offline_deploy import OfflineDeploy
    from twin.state import lacking

    # A folder a stage: what is destroyed is what was deployed of that stage, never another one.
    out = PROJECT / "out" / stage
    return OfflineDeploy(
        state.environment(),
        out,
        PROJECT,
        stage,
        _say,
        twin_has_ended=lambda: not state.running,
        twin_lacks=lambda: lacking(state),
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@application.command(context_settings=_PASSED_ON, add_help_option=False)
def twin(context: typer.Context) -> None:
    """The twin of AWS on this machine: up, status, logs, inventory, down and more."""
    _twin(context.args, "edgewright twin")


@application.command(context_settings=_PASSED_ON, add_help_option=False)
def predict(context: typer.Context) -> None:
    """Ask a model on the devices, or listen to them: on the twin, with --aws over AWS IoT."""
    _asked(context.args, "predict", "tools.predict")


@application.command(context_settings=_PASSED_ON, add_help_option=False)
def ui(context: typer.Context) -> None:
    """Serve the live page: of the twin, with --aws of a stage in AWS, read-only."""
    _asked(context.args, "ui", "tools.fleet_page")


def _asked(arguments: Sequence[str], command: str, over_aws: str) -> None:
    if _AWS not in arguments:
        _twin([command, *arguments], "edgewright")
        return
    typed = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    typed.command()(import_module(over_aws).main)
    typed([each for each in arguments if each != _AWS], prog_name=f"edgewright {command} {_AWS}")


def _twin(arguments: Sequence[str], program: str) -> None:
    from twin.cli import main as run

    run(arguments, program)


def _passed_on(module: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        raise typer.Exit(int(import_module(module).main(context.args)))

    return command


for _name, (_module, _about) in _TOOLS.items():
    application.command(_name, help=_about, context_settings=_PASSED_ON, add_help_option=False)(_passed_on(_module))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that a user can act on is one message and exit code 1.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    from tools.node import settle_jsii

    if arguments is None:
        settle_endings()
    try:
        settle_jsii(os.environ)
        application(arguments, prog_name="edgewright")
    except CommandError as exc:
        print(f"edgewright: {exc}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as exc:
        top = (exc.name or "").partition(".")[0]
        if top in ("edgewright", "edge_constructs", "edge_handlers", "edge_rules", "nucleus_lite"):
            raise
        print(
            f"edgewright: this command needs {top}, which is not installed: pip install 'edgewright[twin]'",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    main()
