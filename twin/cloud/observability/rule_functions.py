"""Functions of the rules' SQL that MiniStack lacks: `get` and `parse_time`."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

from ministack.services import iot

logger = logging.getLogger("twin.iot_rules")

UNDEFINED: Any = iot._MISSING
"""What a function gives that has no value; a WHERE clause over it does not match."""

_LETTERS = re.compile(r"([a-zA-Z])\1*")
#: The patterns of Joda's DateTimeFormat that have the same meaning in every locale.
_JODA = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def get(collection: Any, key: Any) -> Any:
    """Take one value out of a list by its index, of an object by its key, or of a string by the character's index.

    Args:
        collection: Any value.
        key: A whole number for lists and strings, a string for objects.

    Returns:
        The value; UNDEFINED where there is none or the types do not fit.
    """
    if isinstance(collection, dict):
        return collection.get(key, UNDEFINED) if isinstance(key, str) else UNDEFINED
    fits = isinstance(collection, list | str) and isinstance(key, int) and not isinstance(key, bool)
    return collection[key] if fits and 0 <= key < len(collection) else UNDEFINED


def parse_time(pattern: Any, milliseconds: Any) -> Any:
    """Write a time, in UTC.

    Args:
        pattern: Of Joda, made of yyyy, MM, dd, HH, mm, ss and characters that are no letters.
        milliseconds: Since 1970.

    Returns:
        The text; UNDEFINED for arguments of other types or another pattern, which is logged.
    """
    if not isinstance(pattern, str) or isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return UNDEFINED
    if unknown := [found[0] for found in _LETTERS.finditer(pattern) if found[0] not in _JODA]:
        logger.warning("parse_time: pattern may hold %s, got %r in %r", ", ".join(_JODA), unknown[0], pattern)
        return UNDEFINED
    directives = _LETTERS.sub(lambda found: _JODA[found[0]], pattern.replace("%", "%%"))
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime(directives)
    except (ValueError, OverflowError, OSError):
        return UNDEFINED


def install() -> None:
    """Let SELECT, WHERE and substitution templates call the functions."""
    functions = {"get": get, "parse_time": parse_time}
    evaluate = iot._eval_select_function

    def evaluate_function(
        name: str, args: list[str], topic: str, payload: bytes, message: Any, client_id: str | None = None
    ) -> Any:
        function = functions.get(name)
        if function is None:
            return evaluate(name, args, topic, payload, message, client_id)
        if len(args) != 2:
            return UNDEFINED
        return function(*(iot._eval_select_expr(argument, topic, payload, message, client_id) for argument in args))

    iot._eval_select_function = evaluate_function
    iot._IMPLEMENTED_SQL_FUNCS = iot._IMPLEMENTED_SQL_FUNCS | set(functions)
