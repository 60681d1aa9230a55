"""What a function's process finds around itself: folders, and the environment variables of V1."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from v1_handler.context import function_arn, log_group
from v1_handler.settings import HandlerSettings


@dataclass(frozen=True)
class Folders:
    """Where a function and its surroundings lie.

    Args:
        function: Its own files.
        dependencies: The packages that were bundled for it.
        shim: Holds `greengrasssdk`.
        component: Holds this package.
        version: The component's, which no nucleus tells it.
    """

    function: Path
    dependencies: Path
    shim: Path
    component: Path
    version: str = "1"

    @property
    def path(self) -> tuple[Path, ...]:
        """Where a function's imports look before Python's own modules; the shim first: it may bring V1's SDK along."""
        return self.shim, self.function, self.dependencies


def environment(folders: Folders, settings: HandlerSettings) -> Mapping[str, str]:
    """The environment of a function's process.

    Args:
        folders: Where things lie.
        settings: How the function is run; its own variables win over the device's, and lose against V1's.

    Returns:
        All variables.
    """
    return {
        **os.environ,
        **settings.environment,
        # All that the process needs to begin with: the function's own imports are looked for in `Folders.path`.
        "PYTHONPATH": str(folders.component),
        "PYTHONUNBUFFERED": "1",
        "PWD": str(folders.function),
        "LAMBDA_TASK_ROOT": str(folders.function),
        "AWS_LAMBDA_FUNCTION_NAME": settings.name,
        "AWS_LAMBDA_FUNCTION_VERSION": folders.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(settings.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group(settings.name),
        "MY_FUNCTION_ARN": function_arn(settings.name, folders.version),
        "_HANDLER": settings.handler,
    }
