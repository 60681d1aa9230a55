"""Writing objects to S3 with token exchange credentials: no SDK, the IPC's library signs."""

import hashlib
import io
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException
from urllib.parse import quote, urlsplit

from awscrt import auth, http

CALL_LIMIT_S = 30.0
#: Credentials are renewed so long before they expire.
MARGIN_S = 300.0
ERROR_BYTES = 300


class UploadError(OSError):
    """An object that could not be written."""


@dataclass(frozen=True)
class _Credentials:
    key: str
    secret: str
    token: str
    expires: float


class S3Objects:
    """Writes objects; see `ObjectStore`. For one thread.

    Args:
        environment: The process's: AWS_REGION, AWS_CONTAINER_CREDENTIALS_FULL_URI, AWS_CONTAINER_AUTHORIZATION_TOKEN,
            GG_ROOT_CA_PATH, and AWS_ENDPOINT_URL_S3 for another S3 than AWS's.
        clock: Epoch seconds.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.time) -> None:
        self._environment = environment
        self._clock = clock
        self._credentials: _Credentials | None = None

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Write an object; see `ObjectStore.put`.

        Raises:
            UploadError: No credentials, no connection, or S3 refuses; the text says which.
        """
        url = self._url(bucket, key)
        try:
            request = urllib.request.Request(  # noqa: S310 - composed here
                url, data=body, method="PUT", headers=self._signed(url, body)
            )
            with urllib.request.urlopen(request, timeout=CALL_LIMIT_S, context=self._tls(url)):  # noqa: S310
                pass
        except urllib.error.HTTPError as exc:
            if exc.code in (400, 401, 403):
                self._credentials = None  # they may have been revoked, or the clock was set
            detail = exc.read(ERROR_BYTES).decode(errors="replace")
            raise UploadError(f"s3://{bucket}/{key} is refused with {exc.code}: {detail}") from exc
        except (OSError, HTTPException) as exc:
            raise UploadError(f"s3://{bucket}/{key} could not be written: {exc}") from exc

    def _url(self, bucket: str, key: str) -> str:
        path = quote(key, safe="/-._~")
        endpoint = self._environment.get("AWS_ENDPOINT_URL_S3")
        if endpoint:
            return f"{endpoint.rstrip('/')}/{bucket}/{path}"
        region = self._environment.get("AWS_REGION", "us-east-1")
        return f"https://{bucket}.s3.{region}.amazonaws.com/{path}"

    def _signed(self, url: str, body: bytes) -> dict[str, str]:
        parts, credentials = urlsplit(url), self._current()
        provider = auth.AwsCredentialsProvider.new_static(credentials.key, credentials.secret, credentials.token)
        config = auth.AwsSigningConfig(
            algorithm=auth.AwsSigningAlgorithm.V4,
            signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
            credentials_provider=provider,
            region=self._environment.get("AWS_REGION", "us-east-1"),
            service="s3",
            # S3 takes the path as it is sent.
            use_double_uri_encode=False,
            should_normalize_uri_path=False,
            signed_body_value=hashlib.sha256(body).hexdigest(),
            signed_body_header_type=auth.AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256,
        )
        request = http.HttpRequest("PUT", parts.path, http.HttpHeaders([("host", parts.netloc)]), io.BytesIO(body))
        return dict(auth.aws_sign_request(request, config).result(CALL_LIMIT_S).headers)

    def _current(self) -> _Credentials:
        if self._credentials is None or self._clock() > self._credentials.expires - MARGIN_S:
            self._credentials = self._fetched()
        return self._credentials

    def _fetched(self) -> _Credentials:
        url = self._environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if not url:
            raise UploadError("no credentials: the device offers no token exchange to this component")
        token = self._environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", "")
        # The token exchange is on this machine: no proxy leads there.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            request = urllib.request.Request(url, headers={"Authorization": token})  # noqa: S310 - the device's own
            with opener.open(request, timeout=CALL_LIMIT_S) as answer:
                found = json.load(answer)
            if found is None:
                raise UploadError("no credentials yet: the device reaches no cloud at the moment")
            expires = datetime.fromisoformat(found["Expiration"]).timestamp()
            return _Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"], expires)
        except UploadError:
            raise
        except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError) as exc:
            raise UploadError(f"no credentials from the device's token exchange: {exc!r}") from exc

    def _tls(self, url: str) -> ssl.SSLContext | None:
        if not url.startswith("https:"):
            return None
        context = ssl.create_default_context()
        root = self._environment.get("GG_ROOT_CA_PATH")
        if root:
            context.load_verify_locations(root)
            # Private roots are often made without the key usage extension, which newer OpenSSL flags insist on.
            context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        return context
