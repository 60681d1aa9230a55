import ast
import os
import subprocess
import sys
from pathlib import Path

HANDLERS = Path(__file__).resolve().parents[2] / "constructs" / "edge_handlers"
# What a Lambda function's Python runtime brings along.
PROVIDED = {*sys.stdlib_module_names, "boto3", "botocore", "edge_handlers"}


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the handlers are imported by the same path in Lambda and in tests"
            names.add((node.module or "").partition(".")[0])
    return names


def test_handlers_import_only_what_lambda_provides() -> None:
    modules = list(HANDLERS.rglob("*.py"))
    # A program of its own, run with the devices' wheels on its path.
    modules.remove(HANDLERS / "onnx_optimise.py")
    # Neo's image imports it.
    modules.remove(HANDLERS / "neo_serving.py")
    foreign = {
        module.relative_to(HANDLERS).as_posix(): sorted(extra)
        for module in modules
        if (extra := _imported(ast.parse(module.read_text())) - PROVIDED)
    }

    assert len(modules) > 20
    assert foreign == {}


def test_nobody_mentions_the_address_that_answers_for_the_resource() -> None:
    users = [
        module.relative_to(HANDLERS).as_posix()
        for module in HANDLERS.rglob("*.py")
        if any(
            isinstance(node, ast.Constant) and node.value == "ResponseURL"
            for node in ast.walk(ast.parse(module.read_text()))
        )
    ]

    # It sends the answers; no handler sees the address.
    assert users == ["answering.py"]


def _loaded(*, in_lambda: bool) -> set[str]:
    """Top-level packages in a process that has imported every handler."""
    names = [f"edge_handlers.{module.stem}" for module in HANDLERS.glob("*.py") if module.stem != "onnx_optimise"]
    program = f"import sys, {', '.join(sorted(names))}; print(*(n for n in sys.modules if '.' not in n))"
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(HANDLERS.parent)}
    if in_lambda:
        variables["AWS_LAMBDA_FUNCTION_NAME"] = "handler"
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_synth_that_wants_the_contracts_does_not_wait_for_the_clients() -> None:
    assert "boto3" not in _loaded(in_lambda=False)


def test_a_function_loads_the_clients_when_it_starts_and_never_the_cdk() -> None:
    loaded = _loaded(in_lambda=True)

    assert "boto3" in loaded
    assert not {"aws_cdk", "constructs", "jsii"} & loaded
