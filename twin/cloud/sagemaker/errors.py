"""Errors of the SageMaker API."""


class ServiceError(Exception):
    """An error that SageMaker answers with; `code` is its name on the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
