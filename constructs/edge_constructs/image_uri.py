"""Container images of SageMaker, from the table that its SDK ships; the SDK itself (1 GB) is never imported."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

_TABLES = "sagemaker/core/image_uri_config"
_DOMAINS = {"cn-": "amazonaws.com.cn"}


class ImageUriError(ValueError):
    """There is no image; the text says for what, and what to do."""


def triton_image(region: str, tables: Path | None = None) -> str:
    """Find the newest Triton image for processors, which serves ONNX models.

    Args:
        region: Of the endpoint.
        tables: Folder of the SDK's tables; the installed SDK's by default.

    Returns:
        The image's URI.

    Raises:
        ImageUriError: The SDK is not installed, or has no image for the region.
    """
    path = (tables or _installed()) / "sagemaker-tritonserver.json"
    versions: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["versions"]
    version = max(versions, key=lambda text: [int(part) for part in text.split(".")])
    entry = versions[version]
    if region not in entry["registries"]:
        known = ", ".join(sorted(entry["registries"]))
        raise ImageUriError(f"verify: endpoint needs a region with a Triton image, one of {known}, got {region}")
    domain = next((name for prefix, name in _DOMAINS.items() if region.startswith(prefix)), "amazonaws.com")
    tag = entry.get("tag_prefix", f"{version}-py3")
    return f"{entry['registries'][region]}.dkr.ecr.{region}.{domain}/{entry['repository']}:{tag}-cpu"


def _installed() -> Path:
    for package in ("sagemaker-core", "sagemaker"):
        try:
            folder = Path(str(distribution(package).locate_file(_TABLES)))
        except PackageNotFoundError:
            continue
        if folder.is_dir():
            return folder
    raise ImageUriError(
        "verify: endpoint takes its image from the SageMaker SDK's table, which is not installed: "
        "pip install -r requirements-sagemaker.txt, or set models.verification.image"
    )
