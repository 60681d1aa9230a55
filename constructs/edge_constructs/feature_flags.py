"""The app's context as the CDK command line gives it, for a synth without that command line."""

import json
from pathlib import Path
from typing import Any

CDK_JSON = Path(__file__).resolve().parents[2] / "cdk.json"


def read_context(path: Path = CDK_JSON) -> dict[str, Any]:
    """Read feature flags and settings, so that `python app.py` and `cdk synth` give the same templates.

    Args:
        path: The app's `cdk.json`.

    Returns:
        Its `context`; what the command line passes in `CDK_CONTEXT_JSON` wins over it.
    """
    context: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["context"]
    return context
