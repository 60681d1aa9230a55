"""The libraries that the compiler needs, out of the archive that the devices install."""

import io
import zipfile
from pathlib import Path
from typing import Any

from edge_handlers.s3_location import S3Location
from edge_handlers.service_client import explaining

NEEDED = ("numpy", "onnxruntime")


class WheelError(ValueError):
    """The runtime's archive lacks a library."""


def unpack_wheels(place: S3Location, site: Path, s3: Any) -> Path:
    """Unpack numpy and ONNX Runtime.

    Args:
        place: The runtime's archive, a zip with `wheels/<name>-….whl` in it.
        site: Where to; made here.
        s3: A boto3 S3 client.

    Returns:
        The folder, to be put on a Python path.

    Raises:
        WheelError: A library is not in the archive, or the archive is no zip.
        AwsCallError: S3 refused the call.
    """
    archive = site.with_suffix(".zip")
    with explaining(f"read the runtime's archive {place}"), archive.open("wb") as file:
        s3.download_fileobj(place.bucket, place.key, file)
    try:
        with zipfile.ZipFile(archive) as runtime:
            names = [name for name in runtime.namelist() if name.endswith(".whl")]
            for needed in NEEDED:
                wheels = [name for name in names if name.rpartition("/")[2].startswith(f"{needed}-")]
                if len(wheels) != 1:
                    raise WheelError(f"{place} must hold one wheel of {needed}, got {wheels or 'none'}: run make setup")
                with zipfile.ZipFile(io.BytesIO(runtime.read(wheels[0]))) as wheel:
                    wheel.extractall(site)
    except zipfile.BadZipFile as exc:
        raise WheelError(f"{place} must be a zip of wheels, got a damaged one: {exc}") from exc
    finally:
        archive.unlink()
    return site
