"""The context that Greengrass V1 gave to a function with each event."""

import os
import sys
import time
from collections.abc import Mapping
from typing import Any


def function_arn(name: str, version: str) -> str:
    """A name as Lambda would give it; the account is unknown on a device."""
    return f"arn:aws:lambda:{_region()}:000000000000:function:{name}:{version}"


def log_group(name: str) -> str:
    """Where V1 would have written the log of a function."""
    return f"/aws/greengrass/Lambda/{_region()}/{name}"


def _region() -> str:
    return os.environ.get("AWS_REGION") or "local"


class Client:
    """The calling app, which Greengrass never knew: every field is None."""

    installation_id: str | None = None
    app_title: str | None = None
    app_version_name: str | None = None
    app_version_code: str | None = None
    app_package_name: str | None = None


class ClientContext:
    """Where an event comes from.

    Args:
        custom: `subject` is the topic.
    """

    def __init__(self, custom: Mapping[str, str]) -> None:
        self.custom = dict(custom)
        self.env: dict[str, str] = {}
        self.client = Client()


class Identity:
    """The calling user, which Greengrass never knew."""

    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


class LambdaContext:
    """What a function may ask about itself and its event.

    Args:
        about: From the component: `name`, `version`, `memoryMb`, `requestId`, `subject`, `timeoutSeconds`.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        name, version = str(about["name"]), str(about["version"])
        self.function_name = name
        self.function_version = version
        self.invoked_function_arn = function_arn(name, version)
        self.memory_limit_in_mb = int(about["memoryMb"])
        self.aws_request_id = str(about["requestId"])
        self.log_group_name = log_group(name)
        self.log_stream_name = os.environ.get("AWS_IOT_THING_NAME", "")
        self.client_context = ClientContext({"subject": str(about["subject"])})
        self.identity = Identity()
        self._deadline = time.monotonic() + float(about["timeoutSeconds"])

    def get_remaining_time_in_millis(self) -> int:
        """Time until the event's time-out, in milliseconds, at least 0."""
        return max(int((self._deadline - time.monotonic()) * 1000), 0)

    def log(self, message: object) -> None:
        """Write to the component's log."""
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()
