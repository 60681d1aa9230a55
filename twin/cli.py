"""The command line of the twin: up, status, ui, predict, logs, inventory, join, leave, device, down, env and more."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import boto3
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.names import Names
from config.stage import Stage
from twin import TwinError, faults, lifecycle
from twin import inventory as inventory_module
from twin import predict as asking
from twin.clock import Clock
from twin.devices import client_device
from twin.devices.identity import write_bundle
from twin.devices.membership import Membership, check_own_devices, set_own_devices
from twin.operator import OperatorClient
from twin.state import TwinState, default_home, foreign_settings, load_state, unsaved_text
from twin.status import CoreDeviceStatus, TwinStatus, core_devices, find_logs, joined_devices, read_logs, take_status

application = typer.Typer(
    help="An AWS cloud and an edge device on this machine: deploys without an account. State: .twin, or TWIN_HOME.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# What is printed is others' text: brackets and colons in it are no markup.
_output = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
_messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)

_DEVICES_SHOWN = 10
"""With their components, by `status`."""

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


def _running() -> TwinState:
    home = default_home()
    state = load_state(home)
    if state is None or not state.running:
        raise TwinError(f"a twin must run in {home}, got none: start it with `python -m twin up`")
    return state


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show what goes on, while it goes on."""
    with _messages.status("twin") as spinner:
        yield lambda text: spinner.update(Text(f"twin: {text}"))


@application.command()
def up(
    as_json: AsJson = False,
    devices: Annotated[
        int | None, typer.Option("--devices", help="Let there be so many core devices beside the edge servers.")
    ] = None,
    group: Annotated[str | None, typer.Option("--group", help="Thing group of new devices, made if missing.")] = None,
    dialect: Annotated[
        str, typer.Option("--dialect", help="Whose limits and quirks new devices have: lite or classic.")
    ] = "lite",
    simulated_devices: Annotated[
        int | None, typer.Option("--simulated", help="Let there be so many simulated core devices, in one process.")
    ] = None,
    speed: Annotated[
        float | None, typer.Option("--speed", help="Seconds of the twin in a real one, 1 to 3600; default: 1.")
    ] = None,
    aws_rates: Annotated[
        bool, typer.Option("--aws-rates", help="Throttle as an AWS account with default quotas does.")
    ] = False,
    profile: Annotated[
        Path | None, typer.Option("--profile", help="TOML file: what simulated devices and their components do.")
    ] = None,
) -> None:
    """Start the twin; one that runs already is left as it is. TWIN_AUTH=1 evaluates IAM policies."""
    began = time.monotonic()
    if profile is not None and simulated_devices is None:
        raise TwinError("--profile must come with --simulated: it says what simulated devices do")
    # Before a twin is started, or devices come, because of them.
    if devices is not None:
        check_own_devices(devices, dialect)
    simulate = None if simulated_devices is None else _simulation(simulated_devices, group, profile)
    state = load_state(default_home())
    was_running = state is not None and state.running
    with _progress() as progress:
        state = lifecycle.start(default_home(), speed=speed, aws_rates=aws_rates, progress=progress)
        if devices is not None:
            set_own_devices(state, devices, group=group, dialect=dialect, progress=progress)
        if simulate is not None:
            simulate(state, progress)
    if as_json:
        typer.echo(json.dumps(take_status(state).as_json()))
        return
    what = "runs already" if was_running else f"is up after {time.monotonic() - began:.1f} s"
    _output.print(f'The twin {what}: {state.gateway_url} (pid {state.pid}). Next: eval "$(python -m twin env)"')


def _simulation(
    count: int, group: str | None, profile: Path | None
) -> Callable[[TwinState, Callable[[str], None]], object]:
    """What makes the simulated devices once the twin runs.

    Raises:
        TwinError: The number or the profile is refused.
    """
    # Here, because the rules of profiles take a while to load, and no other command needs them.
    from twin.devices import simulated_fleet
    from twin.simulation.profile import Profile, load_profile

    simulated_fleet.check(count)
    chosen = load_profile(profile) if profile else Profile()
    return lambda state, progress: simulated_fleet.set_count(
        state, count, group=group, profile=chosen, progress=progress
    )


@application.command()
def status(as_json: AsJson = False) -> None:
    """Show whether the twin runs, its ports, its edge devices and their components; exit code 1 if it does not run."""
    state = load_state(default_home())
    if state is None or not state.running:
        if as_json:
            typer.echo(json.dumps({"running": False, "home": str(default_home())}))
        else:
            _output.print(f"No twin runs in {default_home()}. Start it with: python -m twin up")
        raise typer.Exit(1)
    current = take_status(state)
    if as_json:
        known = [asdict(each) for each in core_devices(state)]
        typer.echo(json.dumps({**current.as_json(), "joined": joined_devices(current), "core_devices": known}))
    else:
        _show_status(current)


def _show_status(current: TwinStatus) -> None:
    state = current.state
    _output.print(f"The twin runs: {state.gateway_url} (pid {state.pid}), account {state.account}, {state.region}")
    _output.print("  ports: " + ", ".join(f"{name.removesuffix('_port')} {port}" for name, port in state.ports.items()))
    clock = Clock.read(state.clock)
    if clock != Clock():
        now = datetime.fromtimestamp(clock.time(), UTC).isoformat(timespec="seconds")
        _output.print(f"  twin time: {now}, {clock.speed:g} s a second")
    if current.unsaved:
        _output.print(f"  not saved: {unsaved_text(current.unsaved)}; make room in {state.home}")
    if current.devices:
        ended = [device.thing_name for device in current.devices if device.pid is None]
        _output.print(
            f"  devices: {len(current.devices)}" + (f", not running: {', '.join(ended)}" if ended else ", all running")
        )
    if fleet := current.simulated:
        _output.print(
            f"  simulated devices: {fleet['wanted']}, {fleet['connected']} connected, "
            f"{fleet.get('deploying', 0)} with a deployment under way; components: "
            + (", ".join(f"{number} {state}" for state, number in fleet.get("components", {}).items()) or "none")
        )
    if joined := joined_devices(current):
        told = ", ".join(f"{thing} {health}" for thing, health in joined.items())
        _output.print(f"  joined, with logs of their own: {told}")
    if not current.edge_servers:
        _output.print("  edge servers: none")
    # No table: a narrow terminal would cut the name, which other commands take.
    for server in current.edge_servers:
        where = f"{server.instance_id}, pid {server.pid}" if server.pid else server.instance_id
        told = f"  edge server: {server.thing_name} {server.phase} ({where}): {server.last_event}"
        _output.print(told)
    _show_components(core_devices(state))


def _show_components(known: list[CoreDeviceStatus]) -> None:
    for core in known[:_DEVICES_SHOWN]:
        deployed = f"last deployment {core.deployment}" if core.deployment else "no deployment yet"
        _output.print(f"{core.thing_name}: {core.status}, {deployed}")
        widths = [
            max((len(text) for text in column), default=0)
            for column in zip(*map(astuple, core.components), strict=True)
        ]
        for component in core.components:
            cells = (text.ljust(width) for text, width in zip(astuple(component), widths, strict=True))
            _output.print(f"  {'  '.join(cells).rstrip()}")
    if len(known) > _DEVICES_SHOWN:
        _output.print(f"and {len(known) - _DEVICES_SHOWN} more core devices: --json has them all")


def _on_the_twin(_stage: Stage) -> tuple[asking.Connect, asking.Clients]:
    state = _running()
    return lambda: OperatorClient(state), lambda service: boto3.client(service, **state.client_arguments())


application.command()(asking.command("twin", _on_the_twin, "Ask a model on the devices, or listen to what they say."))


@application.command()
def logs(
    who: Annotated[
        str,
        typer.Argument(
            help="Part of a log's name: cloud, edge_server, a component …, or a joined device; default: all."
        ),
    ] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to begin with.")] = 40,
) -> None:
    """Show the logs of the cloud, the edge devices and their components."""
    home, about = default_home(), ""
    found = find_logs(home, who)
    if not found and (state := load_state(home)) is not None and who in joined_devices(take_status(state)):
        _output.print(
            f"{who} has joined: its own logs are on it (nucleus lite: journalctl -t COMPONENT; classic: logs/ in its "
            "root folder). What the cloud says of it:",
        )
        who, about = "cloud", who
    elif not found and not follow:
        if not (names := ", ".join(sorted(find_logs(home, "")))):
            raise TwinError(f"a twin must have run in {home}, got none: start it with `python -m twin up`")
        raise TwinError(f"WHO must be part of a log's name, got {who!r}: there are {names}")
    try:
        for line in read_logs(home, who, last=lines, follow=follow, about=about):
            _output.print(line)
    except KeyboardInterrupt:
        return


@application.command()
def fault(
    device: Annotated[str, typer.Argument(help="Thing name of an edge server or of a device of `up --devices`.")],
    fault: Annotated[str, typer.Argument(help=f"One of {', '.join(faults.FAULTS)}.")],
    stage: Annotated[str, typer.Option("--stage", help="Whose inference component kill-component kills.")] = "twin",
) -> None:
    """Let a device have a fault, or take one back: components, the device itself, network, disk, daemons."""
    said = faults.do(_running(), device, fault, Names(stage).inference_component)
    _output.print(said)


@application.command()
def ui(
    port: Annotated[int | None, typer.Option("--port", min=1024, max=65535, help="By default a free one.")] = None,
    stage: Annotated[str, typer.Option("--stage", help="The stage that is shown.")] = "twin",
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser, too.")] = False,
) -> None:
    """Serve the live page: devices, rollouts, predictions, alarms, logs; on this machine, until Ctrl-C."""
    # Here, because no other command needs a web server.
    from twin.page.server import of_twin, run

    state = _running()
    run(of_twin(state.home, asking.stage_of(stage)), port, open_it=open_it)


@application.command()
def inventory(as_json: AsJson = False) -> None:
    """List what exists in the account; exit code 0 in any case. What `cdk bootstrap` made is listed apart."""
    found = inventory_module.take(_running())
    if as_json:
        typer.echo(json.dumps(found))
        return
    left = {kind: names for kind, names in found.items() if kind != "bootstrap"}
    if not left:
        _output.print("Nothing is left.")
    for kind, names in left.items():
        _output.print(f"{kind} ({len(names)})")
        for name in names:
            _output.print(f"  {name}")
    if found.get("bootstrap"):
        _output.print(f"Apart from that, of the CDK bootstrap: {len(found['bootstrap'])} resources")


def _new_folder(path: Path) -> Path:
    folder = path.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TwinError(f"--out must be a new or empty folder, got {folder}: name another one")
    return folder


@application.command()
def join(
    thing: Annotated[str, typer.Argument(help="Name of the device's thing, new in the account.")],
    group: Annotated[
        str | None,
        typer.Option("--group", help="Thing group, made if missing; default: that of the deployed stage, if any."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the device's files; default: ./THING.")] = None,
    root: Annotated[
        str | None, typer.Option("--root", help="The nucleus' root folder on the device; default: its usual one.")
    ] = None,
    stage: Annotated[str, typer.Option("--stage", help="Whose role alias, policy and group the device gets.")] = "twin",
) -> None:
    """Let a real device join: make its identity and a folder with its files and a README of three commands."""
    state = _running()
    folder = _new_folder(out or Path(thing))
    membership = Membership(state, stage)
    identity = membership.join(thing, group)
    try:
        write_bundle(folder, identity, state.proxy_port, root)
    except TwinError:
        membership.leave(thing)
        raise
    groups = ", ".join(identity.groups) or "no group: give --group for deployments to one"
    _output.print(f"{thing} may join (thing groups: {groups}). Next: {folder / 'README.md'}")


@application.command()
def leave(thing: Annotated[str, typer.Argument(help="The name given to `join`.")]) -> None:
    """Undo `join`: certificate, attachments, core device and thing go; the device's own files stay where they are."""
    left = Membership(_running()).leave(thing)
    _output.print(f"{thing} has left." if left else f"There is no thing {thing}; nothing of it is left.")


@application.command()
def device(
    thing: Annotated[str, typer.Argument(help="Name of the client device: one of the stage's, or a new one.")],
    core: Annotated[
        str | None,
        typer.Option("--core", help="Core device that it may connect to; default: its own, or the only one."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for its files; default: ./THING.")] = None,
    stage: Annotated[str, typer.Option("--stage", help="Whose IoT policy and topics it uses.")] = "twin",
    remove: Annotated[bool, typer.Option("--remove", help="Take its certificates back, and the thing if new.")] = False,
) -> None:
    """Make a client device beside a core device: a folder with its certificate and a small client that asks."""
    state = _running()
    devices = client_device.ClientDevices(state, stage)
    if remove:
        removed = devices.remove(thing)
        _output.print(f"{thing} has no certificate any more." if removed else f"There is no thing {thing}.")
        return
    folder = _new_folder(out or Path(thing))
    made = devices.add(thing, core)
    try:
        client_device.write_folder(folder, made, state, stage)
    except TwinError:
        devices.remove(thing)
        raise
    _output.print(f"{thing} may connect to {', '.join(made.cores)}. Next: {folder / 'README.md'}")
    if silent := devices.without_broker(made.cores):
        fix = 'a broker comes with [client_devices] and fleet.nucleus = "classic" of a stage'
        _output.print(f"discovery finds no broker yet on {', '.join(silent)}: {fix}")


@application.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete the state folder too: the next start is empty.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Stop it also if its state cannot be saved, and lose what is not.")
    ] = False,
) -> None:
    """Stop the twin, its devices and their components, also after a crash; the state stays for the next start."""
    home = default_home()
    with _progress() as progress:
        stop = lifecycle.purge if purge else functools.partial(lifecycle.stop, anyway=anyway)
        ran = stop(home, progress=progress)
    _output.print("The twin is stopped." if ran else f"No twin ran in {home}.")


@application.command()
def env() -> None:
    """Print shell exports that point the CDK and AWS command lines and boto3 at the twin."""
    foreign = foreign_settings(os.environ)
    state = _running()
    if foreign:
        typer.echo(f"unset {' '.join(foreign)}")
    for name, value in state.environment().items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@application.command()
def patches() -> None:
    """List what the twin changes in MiniStack and why; exit code 1 with what does not fit the installed release."""
    # Here, because it takes a second, and no other command needs MiniStack.
    from twin.cloud.ministack.patches import take_report

    found = take_report()
    for patch in found.patches:
        _output.print(f"{patch.target} (since {patch.since})\n    {patch.why}")
    _output.print(f"{len(found.patches)} names; MiniStack {found.release}")
    if found.misfits:
        raise TwinError(f"{len(found.misfits)} names do not fit:\n" + "\n".join(map(str, found.misfits)))


@application.command()
def rates() -> None:
    """List the calls a second of `up --aws-rates`, with the source of each."""
    # Here, because it takes a second, and no other command needs MiniStack.
    from twin.cloud.rates import RATES, READ

    table = Table("call", "a second", "source", box=None)
    for what, rate in sorted(RATES.items()):
        table.add_row(what, f"{rate.per_second:g}", rate.source)
    _output.print(table)
    _output.print(f"Defaults, read {READ}; an account's: aws service-quotas list-service-quotas --service-code iotcore")


def main(arguments: Sequence[str] | None = None, program: str = "python -m twin") -> None:
    """Run the command line; an error that a user can act on is one message and exit code 1.

    Args:
        arguments: Without the program's name; those of the process by default.
        program: What the program is called.
    """
    try:
        application(arguments, prog_name=program)
    except TwinError as exc:
        _messages.print(f"error: {exc}", style="red")
        sys.exit(1)
    except (OSError, sqlite3.Error) as exc:
        if isinstance(exc, OSError) and exc.filename is None and exc.errno != errno.ENOSPC:
            raise
        text = f"the files of {default_home()} must be readable and writable, got {exc}: make room, or set TWIN_HOME"
        _messages.print(f"error: {text}", style="red")
        sys.exit(1)
