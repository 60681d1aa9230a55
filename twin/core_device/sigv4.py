"""AWS Signature Version 4 for reading from S3.

Source: "Authenticating Requests (AWS Signature Version 4)" of the S3 API reference. botocore does the same for 12 MB of
memory a device, which two dozen devices on a laptop cannot spare.
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from .token_exchange import Credentials

_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def signed_headers(url: str, region: str, credentials: Credentials, now: datetime | None = None) -> dict[str, str]:
    """Headers that make a GET of a URL an authenticated request to S3.

    Args:
        url: `https://host/key`, the key percent-encoded, without a query.
        region: The bucket's region.
        credentials: Temporary credentials.
        now: The time of the request; the default is the current one.
    """
    parts = urlsplit(url)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "host": parts.netloc,
        "x-amz-content-sha256": _EMPTY_SHA256,
        "x-amz-date": stamp,
        "x-amz-security-token": credentials.session_token,
    }
    names = ";".join(sorted(headers))
    canonical_headers = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join(("GET", parts.path or "/", "", canonical_headers, names, _EMPTY_SHA256))
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, digest))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**headers, "authorization": authorization}


def object_url(bucket: str, key: str, region: str) -> str:
    """The URL of an S3 object: virtual-hosted, but path-style where dots in the bucket's name break TLS wildcards."""
    path = quote(key, safe="/-._~")
    if "." in bucket:
        return f"https://s3.{region}.amazonaws.com/{bucket}/{path}"
    return f"https://{bucket}.s3.{region}.amazonaws.com/{path}"
