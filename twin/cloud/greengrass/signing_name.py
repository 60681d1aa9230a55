"""The signing names of the twin's services, known to MiniStack's router."""

from __future__ import annotations

from ministack import app
from ministack.core import router


def install() -> None:
    """Route a request that is signed for a registered service without a look at botocore's catalogue.

    For a name that is not in its own tables MiniStack loads the models of all of AWS's services: the event loop stands
    still for about five seconds at the first such request.
    """
    in_catalogue = router._is_aws_service_name

    def is_aws_service_name(scope_name: str) -> bool:
        return scope_name in app.SERVICE_HANDLERS or bool(in_catalogue(scope_name))

    router._is_aws_service_name = is_aws_service_name
