import json
import os
from pathlib import Path
from typing import Never

import pytest

from edge_inference.agent import AgentError, Status
from edge_inference.agent.models import ModelRegistry


def never(folder: Path) -> Never:
    raise AssertionError(f"{folder} must not be loaded")


def test_weights_in_files_of_their_own_count_before_a_model_is_loaded(tmp_path: Path) -> None:
    files = {name: {"bytes": size} for name, size in (("model.onnx", 8), ("weights/w.bin", 500), ("compiled/m.so", 9))}
    (tmp_path / "manifest.json").write_text(json.dumps({"version": "1.0.0", "files": files}))
    (tmp_path / "model.onnx").write_bytes(b"x" * 8)
    registry = ModelRegistry(dict, never, max_models=1, memory=lambda: 1000)

    with pytest.raises(AgentError, match="the model needs about 1016 bytes, 1000 are free") as caught:
        registry.load(str(tmp_path), "large")

    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert registry.models() == {}


def test_a_pipe_in_place_of_the_pointer_is_no_package(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "current")
    registry = ModelRegistry(dict, never, max_models=1)

    with pytest.raises(AgentError, match="url must be the absolute path of a folder") as caught:
        registry.load(str(tmp_path), "pipe")

    assert caught.value.status is Status.NOT_FOUND
