"""The errors of the Greengrass API, as AWS's service model names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Mistake = tuple[str, str]
"""(field, what is wrong with it and how to mend it)."""


class ServiceError(Exception):
    """A request that is refused; answered with `status` and `code`.

    Args:
        message: Shown to the caller: name, rule, value, fix.
        **details: Further members of the answer that the service model requires.
    """

    code = "InternalServerException"
    status = 500

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.details = details

    def document(self) -> dict[str, Any]:
        """The answer's JSON body."""
        return {"message": str(self), **self.details}


class InvalidRequestError(ServiceError):
    """The request breaks a rule of the API; every broken rule is listed."""

    code = "ValidationException"
    status = 400

    def __init__(self, mistakes: Sequence[Mistake], reason: str = "FIELD_VALIDATION_FAILED") -> None:
        fields = [{"name": field, "message": message} for field, message in mistakes]
        super().__init__(
            "; ".join(f"{field} {message}" if field else message for field, message in mistakes),
            reason=reason,
            fields=fields,
        )


class NotFoundError(ServiceError):
    """The request names something that does not exist."""

    code = "ResourceNotFoundException"
    status = 404

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} must exist, got {name}", resourceId=name, resourceType=kind)


class ConflictError(ServiceError):
    """The request does not fit the state of what it names."""

    code = "ConflictException"
    status = 409

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message, resourceId=name, resourceType=kind)


class AccessDeniedError(ServiceError):
    """The caller may not do this."""

    code = "AccessDeniedException"
    status = 403
