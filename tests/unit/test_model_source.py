"""A model's folder and the archive made of it."""

import hashlib
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from edge_constructs.model_source import ModelDeclarationError, ModelSource

DECLARATION = {
    "name": "shapes",
    "framework": "ONNX",
    "source": "model.onnx",
    "inputs": [{"name": "image", "shape": [1, 8]}],
    "outputs": [{"name": "logits", "shape": [1, 2]}],
    "labels": ["round", "square"],
}


def folder(parent: Path, **changes: Any) -> Path:
    path = parent / "shapes"
    path.mkdir(exist_ok=True)
    (path / "model.json").write_text(json.dumps({**DECLARATION, **changes}), encoding="utf-8")
    (path / "model.onnx").write_bytes(b"onnx")
    return path


def test_reads_what_the_compiler_needs(tmp_path: Path) -> None:
    source = ModelSource.read(folder(tmp_path))

    assert source.name == "shapes"
    assert source.input_shapes == {"image": [1, 8]}


def test_archive_holds_the_named_files_and_its_digest_is_right(tmp_path: Path) -> None:
    path = folder(tmp_path, samples={"file": "samples.npz"})
    (path / "samples.npz").write_bytes(b"samples")
    (path / "notes.txt").write_text("not shipped")

    archive, sha256 = ModelSource.read(path).write_archive(tmp_path / "out")

    assert sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert archive == tmp_path / "out" / sha256 / "model.tar.gz"
    with tarfile.open(archive) as opened:
        assert {member.name: opened.extractfile(member).read() for member in opened} == {  # type: ignore[union-attr]
            "model.onnx": b"onnx",
            "samples.npz": b"samples",
        }


def test_equal_files_give_equal_archives_at_any_time(tmp_path: Path) -> None:
    path = folder(tmp_path)
    _, first = ModelSource.read(path).write_archive(tmp_path / "a")
    os.utime(path / "model.onnx", (1, 1))
    (path / "model.onnx").chmod(0o600)

    _, second = ModelSource.read(path).write_archive(tmp_path / "b")

    assert first == second


def test_lists_every_mistake_of_a_declaration(tmp_path: Path) -> None:
    path = folder(tmp_path, name="forms", labels=[], source="lost.onnx")

    with pytest.raises(ModelDeclarationError) as caught:
        ModelSource.read(path)

    assert str(caught.value).splitlines() == [
        "shapes/model.json: labels: is required, got nothing",
        "shapes/model.json: name: must be the folder's, 'shapes', got 'forms'",
        "shapes/model.json: lost.onnx: is named in the declaration, but missing",
    ]


def test_names_a_folder_without_a_declaration(tmp_path: Path) -> None:
    with pytest.raises(ModelDeclarationError, match=r"must hold model\.json, got none"):
        ModelSource.read(tmp_path)
    with pytest.raises(ModelDeclarationError, match=r"nowhere: .* and there is no such folder"):
        ModelSource.read(tmp_path / "nowhere")


def test_names_a_declaration_that_is_no_json(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "model.json").write_text("{")

    with pytest.raises(ModelDeclarationError, match=r"shapes/model\.json: must be JSON: .*line 1"):
        ModelSource.read(path)


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "labels.txt"])
def test_a_link_out_of_the_folder_is_a_mistake(tmp_path: Path, name: str) -> None:
    path = folder(tmp_path, labels="labels.txt")
    (path / "labels.txt").write_text("a\nb\n")
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ModelDeclarationError, match=rf"^shapes/model\.json: {name} is a link that leads out of shapes"):
        ModelSource.read(path)


def test_names_a_key_that_a_declaration_has_twice(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "model.json").write_text('{"labels": ["a", "b"], "inputs": [], "labels": ["b", "a"]}')

    with pytest.raises(
        ModelDeclarationError, match=r"must be JSON: each key may be there once, 'labels' is there twice"
    ):
        ModelSource.read(path)


@pytest.mark.parametrize("content", [b"[]", b"5", b"\xff\xfe", b"[" * 100_000])
def test_names_a_declaration_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path)
    (path / "model.json").write_bytes(content)

    with pytest.raises(ModelDeclarationError, match=r"shapes/model\.json: must be "):
        ModelSource.read(path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"inputs": ["image"]}, "inputs[0]: must have a name, and a shape of whole numbers, got 'image'"),
        ({"inputs": [{"name": "image", "shape": [1, "N"]}]}, "inputs[0]: must have a name, and a shape"),
        ({"outputs": "logits"}, "outputs: must be a list of objects, got 'logits'"),
        ({"samples": "samples.npz"}, "samples: must be an object, got 'samples.npz'"),
        ({"samples": {"file": []}}, "samples.file: must be a file in the folder, got []"),
        ({"samples": {"file": {}}}, "samples.file: must be a file in the folder, got {}"),
        ({"samples": {"file": ""}}, "samples.file: must be a file in the folder, got ''"),
        ({"samples": {"file": 5}}, "samples.file: must be a file in the folder, got 5"),
        ({"compilation": {"framework": []}}, "compilation.framework: must be one of PYTORCH, got []"),
        ({"extras": "weights.bin"}, "extras: must be a list, got 'weights.bin'"),
        ({"extras": [["a"]]}, "['a']: must be a relative path inside the folder"),
        ({"labels": {"0": "round"}}, "labels: must be a list, or a file in the folder, got {'0': 'round'}"),
        ({"extras": ["../weights.bin"]}, "'../weights.bin': must be a relative path inside the folder"),
        ({"extras": ["other.onnx"]}, "other.onnx: must have another name, a package holds one .onnx file"),
        ({"extras": ["manifest.json"]}, "manifest.json: must have another name"),
        ({"source": "model.pb"}, "source: must be an .onnx file in the folder itself, got 'model.pb'"),
        ({"labels": "lost.txt"}, "labels: must be a list, or the name of a file with one a line, got 'lost.txt'"),
        ({"labels": "/etc/passwd"}, "labels: must be a list, or a file in the folder"),
        ({"probabilites": True}, "probabilites: must be a key of a declaration: did you mean probabilities?"),
        ({"mean": [0.5]}, "mean: must be a key of a declaration: compilation, description, detection, extras, "),
        ({"probabilities": "true"}, "probabilities: must be true or false, got 'true'"),
        ({"probabilities": 1}, "probabilities: must be true or false, got 1"),
        ({"notice": None}, "notice: must be a text, got None"),
        ({"framework": "onnx"}, "framework: must be ONNX, which devices run, got 'onnx'"),
        ({"features": ["a", "b", "a"]}, "features[2]: must be a name that no other one has, got 'a'"),
        ({"features": ["a", None]}, "features[1]: must be a name that no other one has, got None"),
        ({"features": [" ", 0]}, "features[0]: must be a name that no other one has, got ' '"),
    ],
)
def test_names_what_no_package_can_be_made_of(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = folder(tmp_path, **changes)
    for name in ("other.onnx", "manifest.json", "model.pb"):
        (path / name).write_bytes(b"")

    with pytest.raises(ModelDeclarationError) as caught:
        ModelSource.read(path)

    (found,) = str(caught.value).splitlines()
    assert found.startswith(f"shapes/model.json: {line}")


def test_weights_in_files_of_their_own_keep_the_path_that_the_model_has(tmp_path: Path) -> None:
    path = folder(tmp_path, extras=["weights/first.bin", "model.onnx.data"])
    (path / "weights").mkdir()
    (path / "weights" / "first.bin").write_bytes(b"1")
    (path / "model.onnx.data").write_bytes(b"2")

    archive, _ = ModelSource.read(path).write_archive(tmp_path / "out")

    with tarfile.open(archive) as opened:
        assert sorted(opened.getnames()) == ["model.onnx", "model.onnx.data", "weights/first.bin"]


def test_labels_may_lie_in_a_file_whoever_wrote_it(tmp_path: Path) -> None:
    path = folder(tmp_path, labels="labels.txt")
    (path / "labels.txt").write_bytes("\ufeffrund\r\nviereckig größer\r\n".encode())

    assert ModelSource.read(path).declaration["labels"] == ["rund", "viereckig größer"]
    (path / "labels.txt").write_bytes(b"\xe4")
    with pytest.raises(ModelDeclarationError, match=r"labels\.txt must be text in UTF-8"):
        ModelSource.read(path)
