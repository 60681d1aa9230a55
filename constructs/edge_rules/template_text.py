"""Template values as text: what CloudFormation fills in later stands in angle brackets."""

from collections.abc import Callable, Mapping
from typing import Any

#: Says what an export of another stack stands for.
Exports = Callable[[str], str]


def as_text(value: Any, stack: str, exports: Exports) -> str:
    """Write a value of a template as one line of text.

    Args:
        value: Any JSON value; intrinsic functions become `<Stack/LogicalId.Attribute>` or what they join.
        stack: The template's stack, which makes logical ids unique among stacks.
        exports: Name of an export to its text.

    Returns:
        The text; of lists and objects that are no intrinsic function, their items one after another.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(as_text(item, stack, exports) for item in value)
    if not isinstance(value, Mapping):
        return "" if value is None else str(value)
    if len(value) == 1:
        name, argument = next(iter(value.items()))
        if name == "Ref" or name.startswith("Fn::"):
            return _intrinsic(name, argument, stack, exports)
    return " ".join(as_text(item, stack, exports) for item in value.values())


def _intrinsic(name: str, argument: Any, stack: str, exports: Exports) -> str:
    if name == "Ref":
        return f"<{argument}>" if argument.startswith("AWS::") else f"<{stack}/{argument}>"
    if name == "Fn::GetAtt":
        parts = argument.split(".", 1) if isinstance(argument, str) else argument
        return f"<{stack}/{parts[0]}.{as_text(parts[1], stack, exports)}>"
    if name == "Fn::Join":
        separator, items = argument
        if isinstance(items, list):
            return str(separator).join(as_text(item, stack, exports) for item in items)
        return as_text(items, stack, exports)
    if name == "Fn::Sub":
        return _substituted(argument, stack, exports)
    if name == "Fn::ImportValue":
        return exports(as_text(argument, stack, exports))
    if name == "Fn::Base64":
        return as_text(argument, stack, exports)
    if name == "Fn::If":
        # Either branch may come true: both are looked at.
        return " ".join(as_text(branch, stack, exports) for branch in argument[1:])
    return f"<{name} {as_text(argument, stack, exports)}>"


def _substituted(argument: Any, stack: str, exports: Exports) -> str:
    text, values = (argument, {}) if isinstance(argument, str) else argument
    for key, value in values.items():
        text = text.replace(f"${{{key}}}", as_text(value, stack, exports))
    before, *rest = text.split("${")
    parts = [before]
    for piece in rest:
        inside, closed, after = piece.partition("}")
        if not closed or inside.startswith("!"):
            parts.append("${" + inside.removeprefix("!") + closed + after)
            continue
        local = inside if inside.startswith("AWS::") else f"{stack}/{inside}"
        parts.append(f"<{local}>{after}")
    return "".join(parts)
