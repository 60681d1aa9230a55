"""Releases of the Greengrass nucleus that the edge server can install, each pinned by its digest."""

from dataclasses import dataclass

#: What each kind installs unless the stage says otherwise; `docker` holds the classic one.
DEFAULT_VERSIONS = {"classic": "2.18.3", "docker": "2.18.3", "lite": "2.6.0"}
#: Nucleus lite is a Debian package: its server runs Ubuntu 24.04, with the Python of that.
LITE_PYTHON = "3.12"
#: SHA-256 of https://…/greengrass-<version>.zip as others have published it: 2.16.0 in the recipe greengrass-bin of
#: aws4embeddedlinux/meta-aws, 2.18.3 in AWS's sample of an upgrade from V1. AWS publishes no digest of its own, and
#: nobody one of nucleus lite's packages.
DIGESTS = {
    "2.16.0": "f07742c76eca868617127b5c6c9028e41c45c2b4ec25dd0db6f3b40ef7638b4e",
    "2.18.3": "538eb3a10dbfcb534865d1da3ede39dcfe3db705bd1938088a07ce3dfd575237",
}
_CLASSIC = "https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-{version}.zip"
_LITE = (
    "https://github.com/aws-greengrass/aws-greengrass-lite/releases/download/"
    "v{version}/aws-greengrass-lite-deb-{machine}.zip"
)
_LITE_MACHINES = {"x86_64": "x86-64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        url: Where it lies.
        sha256: Its digest; a download that differs is refused.
    """

    url: str
    sha256: str


def nucleus_download(kind: str, version: str | None, sha256: str | None, architecture: str) -> Download:
    """Find the download of a nucleus.

    Args:
        kind: `classic`, `docker` or `lite`.
        version: The kind's default unless given.
        sha256: Digest of the download; a known one unless given.
        architecture: Of the edge server, as `uname -m` prints it.

    Returns:
        The download.

    Raises:
        ValueError: No digest is known.
    """
    version = version or DEFAULT_VERSIONS[kind]
    url = _LITE.format(version=version, machine=_LITE_MACHINES[architecture])
    digest = sha256
    if kind != "lite":
        url = _CLASSIC.format(version=version)
        digest = sha256 or DIGESTS.get(version)
    if digest is None:
        known = ", ".join(DIGESTS)
        raise ValueError(
            f"edge_server.nucleus.sha256 is required for {kind} {version} on {architecture}, as nobody has published "
            f"its digest (known: classic and docker {known}): take it from a download of {url} that you trust"
        )
    return Download(url, digest)
