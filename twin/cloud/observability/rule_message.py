"""The message that a rule acts on, and the templates in the rule's actions that take values out of it."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from ministack.services import iot

_TEMPLATE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class RuleMessage:
    """One message on its way through the rules engine.

    Attributes:
        topic: Where it was published.
        payload: Its bytes.
        client_id: Of the client that published it; None for others than MQTT's.
    """

    topic: str
    payload: bytes
    client_id: str | None

    def fill(self, where: str, template: Any) -> str:
        """Replace every `${expression}` by its value for the original payload, as AWS IoT does.

        Args:
            where: What an error calls the template, such as `cloudwatchMetric.metricValue`.
            template: Text; expressions hold no braces.

        Returns:
            The text.

        Raises:
            ValueError: The template is no text, or an expression has no value in this message.
        """
        if not isinstance(template, str):
            raise ValueError(f"{where} must be a string, got {template!r}")
        document = iot._rule_message(self.payload)

        def value(match: re.Match[str]) -> str:
            found = iot._eval_select_expr(match[1], self.topic, self.payload, document, self.client_id)
            text = iot._sql_as_string(found)
            if text is None:
                raise ValueError(f"{where}: {match[0]} has no value in the message on {self.topic}")
            return str(text)

        return _TEMPLATE.sub(value, template)


CURRENT: ContextVar[RuleMessage] = ContextVar("twin_rule_message")
"""The message whose rules are being run."""
