"""The ledger of what the twin changes in MiniStack: all that does not fit is told before anything is changed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ministack.core import responses
from ministack.services import iot, ssm
from typer.testing import CliRunner

from config.places import PACKAGE as REPOSITORY
from twin.cli import application
from twin.cloud import server
from twin.cloud.ministack.patches import LEDGER, Ledger, Patch, PatchError, missing, signature_of, take_report
from twin.cloud_process import Settings

TWIN = REPOSITORY / "twin"
SETTINGS = Settings("us-east-1", "000000000000", Path("unused"), 1, 2, 3, 4, 5)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def declared(ledger: Ledger, target: str, signature: str) -> None:
    ledger.patch(target, why="a test", signature=signature)(lambda original, *arguments: original(*arguments))


def test_every_missing_and_changed_target_is_in_one_list(ledger: Ledger) -> None:
    declared(ledger, "core.responses.get_region", "()")
    declared(ledger, "core.responses.no_such_function", "(a, b)")
    declared(ledger, "services.no_such_service.anything", "()")
    declared(ledger, "services.cloudformation.provisioners._RESOURCE_HANDLERS[AWS::No::Such][create]", "()")
    declared(ledger, "services.iot.jobs_pending_for_thing", "(thing_name, limit=10)")
    declared(ledger, "services.iot.broker_publish", "(account_id)")
    declared(ledger, "services.ssm._PUBLIC_AMI_PARAMETERS", "list")

    with pytest.raises(PatchError) as error:
        ledger.check()

    told = str(error.value).splitlines()
    assert told[0].endswith("does not fit the twin's patches in 6 of 7 names:")
    assert "  core.responses.no_such_function must be (a, b), got nothing" in told
    assert "  services.no_such_service.anything must be (), got nothing" in told
    assert (
        "  services.cloudformation.provisioners._RESOURCE_HANDLERS[AWS::No::Such][create] must be (), got nothing"
        in told
    )
    assert "  services.iot.jobs_pending_for_thing must be (thing_name, limit=10), got (thing_name)" in told
    assert any(line.startswith("  services.iot.broker_publish must be (account_id), got async (") for line in told)
    assert "  services.ssm._PUBLIC_AMI_PARAMETERS must be list, got dict" in told


def test_a_name_that_does_not_fit_keeps_all_others_from_being_changed(ledger: Ledger) -> None:
    before = responses.get_region
    declared(ledger, "core.responses.get_region", "()")
    declared(ledger, "core.responses.no_such_function", "()")

    with pytest.raises(PatchError):
        ledger.apply()

    assert responses.get_region is before


def test_a_later_patch_wraps_an_earlier_one_and_all_are_taken_back(ledger: Ledger) -> None:
    before = responses.get_region

    @ledger.patch("core.responses.get_region", why="a test", signature="()")
    def inner(original: Callable[[], str]) -> str:
        return f"inner({original()})"

    @ledger.patch("core.responses.get_region", why="a test", signature="()")
    def outer(original: Callable[[], str]) -> str:
        return f"outer({original()})"

    take_back = ledger.apply()
    patched = responses.get_region()
    take_back()

    assert patched == f"outer(inner({before()}))"
    assert responses.get_region is before


def test_a_coroutine_function_stays_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    async def feed(session: Any, data: bytes, max_buffer: int) -> bool:
        return data == b"patched"

    monkeypatch.setattr(iot, "_feed_session", feed)

    @ledger.patch("services.iot._feed_session", why="a test", signature="async (session, data, max_buffer)")
    async def patched(original: Callable[..., Awaitable[bool]], session: Any, data: bytes, max_buffer: int) -> bool:
        return await original(session, b"patched", max_buffer)

    take_back = ledger.apply()
    try:
        assert inspect.iscoroutinefunction(iot._feed_session)
        assert asyncio.run(iot._feed_session(None, b"", 0))
    finally:
        take_back()


def test_what_cannot_be_called_is_replaced_by_what_the_function_makes_of_it(ledger: Ledger) -> None:
    before = ssm._PUBLIC_AMI_PARAMETERS

    @ledger.patch("services.ssm._PUBLIC_AMI_PARAMETERS", why="a test", signature="dict")
    def with_one_more(by_ministack: dict[str, str]) -> dict[str, str]:
        return {**by_ministack, "one": "more"}

    take_back = ledger.apply()
    patched = ssm._PUBLIC_AMI_PARAMETERS
    take_back()

    assert patched == {**before, "one": "more"}
    assert ssm._PUBLIC_AMI_PARAMETERS is before


def test_annotations_are_no_part_of_a_signature() -> None:
    async def function(a: int, *rest: str, b: str = "x") -> None: ...

    assert signature_of(function) == "async (a, *rest, b='x')"


def test_the_cloud_does_not_start_on_a_ministack_that_does_not_fit(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    declared(ledger, "core.responses.no_such_function", "()")
    declared(ledger, "services.iot.broker_publish", "(account_id)")
    monkeypatch.setattr(server, "LEDGER", ledger)

    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit) as end:
        server.install((), SETTINGS)

    assert end.value.code == 1
    (message,) = [record.getMessage() for record in caplog.records]
    assert "core.responses.no_such_function must be (), got nothing" in message
    assert "services.iot.broker_publish must be (account_id), got async (" in message


def test_the_installed_ministack_fits_and_the_ledger_says_why_each_name_is_changed() -> None:
    found = take_report()

    # A new release of MiniStack fails here, with everything that it broke.
    assert [str(misfit) for misfit in found.misfits] == []
    assert len(found.patches) > 40
    assert all(patch.why and patch.since and patch.signature for patch in found.patches)


def test_a_name_that_is_read_or_called_and_missing_is_told_with_its_user(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        "from ministack.services import iot\nfrom ministack.core import nothing_here\n"
        "def f(): return iot._no_such_name(iot._things)\n"
    )

    assert [str(misfit) for misfit in missing(tmp_path)] == [
        "core.nothing_here must be there for user.py, got nothing",
        "services.iot._no_such_name must be there for user.py, got nothing",
    ]


def test_the_command_lists_the_ledger_and_fails_on_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    take_report()

    listed = CliRunner().invoke(application, ["patches"])
    monkeypatch.setattr(
        LEDGER, "_patches", [Patch("core.responses.gone", "a test", "1.5.33", "()", None, "a module"), *LEDGER.patches]
    )
    failed = CliRunner().invoke(application, ["patches"])

    assert listed.exit_code == 0
    assert "app.SERVICE_HANDLERS[cloudformation] (since 1.5.33)\n    the answers that the CDK" in listed.stdout
    assert failed.exit_code == 1
    assert "core.responses.gone must be (), got nothing" in str(failed.exception)


def assigned_names(source: str) -> list[str]:
    """Attributes of what a module imports from MiniStack that it assigns to."""
    tree = ast.parse(source)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ministack"
        for alias in node.names
    }
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    flat = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [
        f"{each.value.id}.{each.attr}"
        for each in flat
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in imported
    ]


def test_no_module_of_the_cloud_goes_past_the_ledger() -> None:
    sample = "from ministack.services import iot, s3 as store\niot.a, store.b = 1, 2\nother.c = 3\n"
    assert assigned_names(sample) == ["iot.a", "store.b"]

    folder = REPOSITORY / "twin" / "cloud"
    found = {path.name: assigned_names(path.read_text("utf-8")) for path in folder.rglob("*.py")}

    assert {name: names for name, names in found.items() if names} == {}


def patched(tree: ast.AST) -> set[str]:
    """Targets of the decorators in a file."""
    return {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "patch"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


def imported_by_name(tree: ast.AST) -> set[str]:
    """What a file imports out of modules of MiniStack, named as a patch's target is."""
    return {
        f"{node.module}.{each.name}".removeprefix("ministack.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ministack")
        for each in node.names
    }


def test_what_is_patched_is_not_imported_by_name() -> None:
    trees = {path: ast.parse(path.read_text("utf-8")) for path in TWIN.rglob("*.py")}
    targets = set().union(*map(patched, trees.values()))

    early = {
        str(path.relative_to(TWIN)): found
        for path, tree in trees.items()
        if (found := imported_by_name(tree) & targets)
    }

    assert early == {}, "a file that is loaded before the patch would keep the function of before: import its module"
    assert "core.iam_evaluator.evaluate" in targets
