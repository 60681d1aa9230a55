"""An extension of the twin's cloud: S3 answers captures with a status of one's choice, as long as a file says so."""

from pathlib import Path
from typing import Any

from ministack.services import s3

from twin.cloud.registry import Settings

FILE = "refuse_captures"
PREFIX = "/captures/"
ERROR = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"


def switch(home: Path, status: int | None) -> None:
    """Refuse captures with a status from now on, or take them again.

    Args:
        home: The twin's state folder.
        status: HTTP status; None for none.
    """
    if status is None:
        (home / FILE).unlink(missing_ok=True)
    else:
        (home / FILE).write_text(str(status))


def install(settings: Settings) -> None:
    """Stand in front of the twin's S3."""
    file, by_ministack = settings.home / FILE, s3.handle_request

    async def handle(method: str, path: str, *rest: Any, **named: Any) -> Any:
        if method == "PUT" and PREFIX in path and file.exists():
            return int(file.read_text()), {"Content-Type": "application/xml"}, ERROR
        return await by_ministack(method, path, *rest, **named)

    # Not the service's registered handler: requests by virtual host go past it.
    s3.handle_request = handle
