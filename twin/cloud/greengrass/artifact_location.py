"""Where a device gets an artifact that it cannot fetch by itself: GetComponentVersionArtifact."""

from __future__ import annotations

from urllib.parse import quote

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ministack.core.iam_evaluator import resolve_credential
from ministack.core.responses import get_account_id, get_region

from twin.cloud.greengrass.component import component_version
from twin.cloud.greengrass.recipe import artifacts
from twin.cloud.greengrass.service_error import NotFoundError

LIFE_S = 3600


def artifact_location(arn: str, path: str) -> dict[str, str]:
    """A URL that needs no credentials, by AWS's name of the bucket.

    AWS keeps the artifacts of its own components itself; the twin has none of those, and answers for the S3 artifacts
    of the account's components, by file name or key.

    Args:
        arn: Of a component version.
        path: The part of the artifact's URI after `greengrass:` or after the bucket, or its last part.

    Returns:
        `{"preSignedUrl"}`, good for an hour.

    Raises:
        NotFoundError: If there is no such version or it has no such artifact.
    """
    for artifact in artifacts(component_version(arn)["recipe"]):
        uri = str(artifact["Uri"])
        if not uri.startswith("s3://"):
            continue
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        if path in (key, key.rsplit("/", 1)[-1]):
            url = f"https://{bucket}.s3.{get_region()}.amazonaws.com/{quote(key)}"
            request = AWSRequest("GET", url)
            S3SigV4QueryAuth(_administrator(), "s3", get_region(), LIFE_S).add_auth(request)
            return {"preSignedUrl": str(request.url)}
    raise NotFoundError("artifact", f"{arn} {path}")


def _administrator() -> Credentials:
    """The account's own key, with the secret by which MiniStack checks its signatures."""
    resolved = resolve_credential(get_account_id(), get_account_id(), "")
    return Credentials(get_account_id(), resolved.secret_access_key)
