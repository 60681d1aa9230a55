"""An extension of the twin's cloud: S3 answers captures with a status of one's choice, as long as a file says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twin.cloud.ministack.patches import patch
from twin.cloud_process import Settings

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
    file = settings.home / FILE

    # Not the service's registered handler: requests by virtual host go past it.
    @patch(
        "services.s3.handle_request",
        why="captures are refused",
        signature="async (method, path, headers, body, query_params, signed_path=None, enforce_bucket_region=True, "
        "internal=False, access_point_region=None, access_point=None)",
    )
    async def handle(by_ministack: Callable[..., Any], method: str, path: str, *rest: Any, **named: Any) -> Any:
        if method == "PUT" and PREFIX in path and file.exists():
            return int(file.read_text()), {"Content-Type": "application/xml"}, ERROR
        return await by_ministack(method, path, *rest, **named)
