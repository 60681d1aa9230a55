import ast
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
    modules.remove(HANDLERS / "onnx_compilation" / "optimise.py")
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

    assert users == []
