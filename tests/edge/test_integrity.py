"""What is loaded is what was signed: name, version, every file, the very bytes that were hashed, and its signature."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge_inference.messages import Request
from edge_inference.models.integrity import SignatureError, SigningKey, SigningKeys, parse_key, reads_beside
from edge_inference.models.package import ModelPackage, ModelPackageError, open_package
from edge_inference.models.runtime import OnnxModel, Running, load
from edge_inference.models.store import ModelStore, Served, Workload, load_workload
from tests.edge.model_folder import DIGITS, make_package, point
from tests.edge.signing import Signer

SIGNER = Signer()
KEY = parse_key(SIGNER.public_key)
DIGITS_SERVED = Served("digits", "com.example.model.Digits")


def signed(folder: Path, version: str = "1.0.0", **changes: Any) -> Path:
    return SIGNER.sign_package(make_package(folder, version, **changes))


def test_another_models_package_is_not_served_though_it_is_signed(tmp_path: Path) -> None:
    folder = signed(tmp_path / "p", name="iris")

    with pytest.raises(ModelPackageError, match="name must be digits or Digits, the served model's, got iris"):
        load_workload(folder, load, KEY, DIGITS_SERVED)


def test_a_package_named_as_its_component_is_served(tmp_path: Path) -> None:
    folder = signed(tmp_path / "p", name="Digits")

    assert load_workload(folder, load, KEY, DIGITS_SERVED).package.name == "Digits"


def test_an_older_package_in_the_folder_of_a_version_is_not_taken_though_it_is_signed(tmp_path: Path) -> None:
    unpacked = tmp_path / "artifacts-unarchived" / DIGITS_SERVED.component
    older, newer = signed(unpacked / "1.0.1" / "digits", "1.0.1"), signed(unpacked / "1.0.2" / "digits", "1.0.2")
    assert load_workload(newer, load, KEY, DIGITS_SERVED).package.version == "1.0.2"

    shutil.rmtree(newer)
    shutil.copytree(older, newer)

    with pytest.raises(ModelPackageError, match=r"version must be 1.0.2, that of the component's folder, got 1.0.1"):
        load_workload(newer, load, KEY, DIGITS_SERVED)
    assert load_workload(older, load, KEY, DIGITS_SERVED).package.version == "1.0.1"


def test_what_is_loaded_is_what_was_hashed(tmp_path: Path) -> None:
    folder = signed(tmp_path / "p")
    expected = load_workload(folder, load).predict(Request("a", index=0), 1).scores

    def swap_then_load(package: ModelPackage) -> OnnxModel:
        for name in ("model.onnx", "samples.npz"):
            (folder / name).write_bytes(b"altered between the check and the load")
        return load(package)

    assert load_workload(folder, swap_then_load, KEY).predict(Request("a", index=0), 1).scores == expected


def test_the_files_are_not_kept_once_the_model_is_loaded(tmp_path: Path) -> None:
    assert len(load_workload(make_package(tmp_path / "p"), load).package.contents) == 0


def test_a_compilers_output_is_checked_and_not_kept(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / "compiled").mkdir()
    (folder / "compiled" / "model.so").write_bytes(b"x" * 1000)
    describe_all(folder)

    assert "compiled/model.so" not in open_package(folder).contents
    (folder / "compiled" / "model.so").write_bytes(b"y" * 1000)
    with pytest.raises(ModelPackageError, match=r"model.so must have the SHA-256"):
        open_package(folder)


def describe_all(folder: Path) -> None:
    files = {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "manifest.sig")
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "files": files}))


@pytest.mark.parametrize("name", ["model.onnx", "samples.npz", "manifest.json", "manifest.sig"])
def test_a_pipe_in_a_package_is_an_error_at_once(name: str, tmp_path: Path) -> None:
    folder = signed(tmp_path / "p")
    (folder / name).unlink()
    os.mkfifo(folder / name)

    found: list[BaseException] = []

    def try_it() -> None:
        try:
            open_package(folder, KEY)
        except ModelPackageError as exc:
            found.append(exc)

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(30)

    assert [name in str(exc) and "it must be a regular file" in str(exc) for exc in found] == [True]


def test_a_pipe_in_the_pointers_place_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "current")
    store = ModelStore(tmp_path / "current", lambda _folder, _threads: pytest.fail("nothing to load"))
    thread = threading.Thread(target=store.refresh, daemon=True)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()
    assert "current cannot be read: it must be a regular file" in store.problem


def test_no_more_is_read_of_a_growing_file_than_it_should_have(tmp_path: Path) -> None:
    folder = signed(tmp_path / "p")
    with (folder / "model.onnx").open("ab") as stream:
        stream.truncate(1 << 40)  # takes no room on the disk

    with pytest.raises(ModelPackageError, match=r"model.onnx must have \d+ bytes, got 1099511627776"):
        open_package(folder, KEY)
    (folder / "manifest.json").write_bytes(b"")
    os.truncate(folder / "manifest.json", 1 << 40)
    with pytest.raises(ModelPackageError, match=r"manifest.json must have at most 1048576 bytes"):
        open_package(folder, KEY)


def test_a_file_that_grows_while_it_is_read_ends_in_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = signed(tmp_path / "p")
    looked_at = os.fstat

    def look_then_grow(descriptor: int) -> os.stat_result:
        found = looked_at(descriptor)
        opened = Path(f"/proc/self/fd/{descriptor}")
        if opened.resolve() == folder / "model.onnx":
            with opened.open("ab") as end:
                end.write(b"more")
        return found

    monkeypatch.setattr(os, "fstat", look_then_grow)
    with pytest.raises(ModelPackageError, match=r"model.onnx must have \d+ bytes"):
        open_package(folder)


WEIGHTS = np.arange(64 * 10, dtype=np.float32).reshape(64, 10) / 640


def external(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHTS.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def model_of(place: str, location: str) -> bytes:
    """A model of the digits' form, its weights in a file of their own: the graph's, a constant's or a branch's."""
    tensor, image = external(location), helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])
    nodes = [helper.make_node("Flatten", ["image"], ["flat"])]
    initializers = [numpy_helper.from_array(np.float32(0), "zero")]
    if place == "branch":
        out = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 10])
        then = helper.make_graph([helper.make_node("MatMul", ["flat", "w"], ["b"])], "then", [], [out], [tensor])
        other = helper.make_graph([helper.make_node("MatMul", ["flat", "w"], ["b"])], "else", [], [out], [tensor])
        nodes += [
            helper.make_node("ReduceSum", ["image"], ["sum"], keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["is"]),
            helper.make_node("If", ["is"], ["logits"], then_branch=then, else_branch=other),
        ]
    elif place == "constant":
        nodes += [
            helper.make_node("Constant", [], ["w"], value=tensor),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ]
    else:
        nodes.append(helper.make_node("MatMul", ["flat", "w"], ["logits"]))
        initializers.append(tensor)
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])
    graph = helper.make_graph(nodes, "g", [image], [logits], initializers)
    made = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    content: bytes = made.SerializeToString()
    return content


def with_weights(folder: Path, place: str, location: str, *, listed: bool) -> Path:
    make_package(folder)
    (folder / "model.onnx").write_bytes(model_of(place, location))
    path = folder / location
    path.parent.mkdir(exist_ok=True)
    if listed:
        WEIGHTS.tofile(path)
    describe_all(folder)
    WEIGHTS.tofile(path)
    return SIGNER.sign_package(folder)


@pytest.mark.parametrize("place", ["graph", "constant"])
@pytest.mark.parametrize("location", ["weights.bin", "sub/weights.bin"])
def test_weights_in_a_file_of_their_own_are_those_that_were_signed(place: str, location: str, tmp_path: Path) -> None:
    folder = with_weights(tmp_path / "p", place, location, listed=True)

    def alter_then_load(package: ModelPackage) -> OnnxModel:
        (WEIGHTS * 0).tofile(folder / location)
        return load(package)

    model = load_workload(folder, alter_then_load, KEY)
    values = np.ones((1, 1, 8, 8), np.float32)
    assert np.allclose(model.runtime.run(values)[0], WEIGHTS.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("place", ["graph", "constant"])
def test_weights_that_are_not_in_the_manifest_are_not_read(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_weights(tmp_path / "p", place, "weights.bin", listed=False)
    monkeypatch.chdir(folder)  # where ONNX Runtime looks, too

    with pytest.raises(ModelPackageError, match=r"weights.bin not found .*; name the file of its weights in extras"):
        load_workload(folder, load, KEY)


def test_weights_of_a_branch_in_a_file_of_their_own_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_weights(tmp_path / "p", "branch", "weights.bin", listed=True)
    monkeypatch.chdir(folder)

    with pytest.raises(ModelPackageError, match="must keep the weights of branches, loops and functions in itself"):
        load_workload(folder, load, KEY)


def test_only_what_is_read_beside_the_table_is_found() -> None:
    assert [reads_beside(model_of(place, "w")) for place in ("graph", "constant", "branch")] == [False, False, True]
    assert not reads_beside((DIGITS / "model.onnx").read_bytes())
    function = helper.make_function(
        "d",
        "F",
        [],
        ["y"],
        [helper.make_node("Constant", [], ["y"], value=external("w"))],
        [helper.make_opsetid("", 17)],
    )
    sparse = onnx.SparseTensorProto(values=external("w"))
    assert reads_beside(onnx.ModelProto(functions=[function]).SerializeToString())
    assert reads_beside(onnx.ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse])).SerializeToString())


@given(st.binary(max_size=200))
def test_anything_may_be_asked_for_its_files(content: bytes) -> None:
    assert reads_beside(content) in (True, False)


def test_a_changed_signing_key_is_taken_by_the_next_model_and_the_one_in_use_goes_on(tmp_path: Path) -> None:
    new, keys = Signer(), SigningKeys()
    old_package, new_package = signed(tmp_path / "1"), new.sign_package(make_package(tmp_path / "2", "1.0.1"))
    again = SIGNER.sign_package(make_package(tmp_path / "3", "1.0.2"))

    def load_with_key(folder: Path, _running: Running) -> Workload:
        return load_workload(folder, load, keys.current)

    store = ModelStore(tmp_path / "current", load_with_key)
    keys.check({"signingKey": SIGNER.public_key})()
    point(tmp_path / "current", old_package)
    store.refresh()
    assert store.version == "1.0.0"

    keys.check({"signingKey": new.public_key})()
    store.refresh()
    assert (store.version, store.problem) == ("1.0.0", "")

    point(tmp_path / "current", new_package)
    store.refresh()
    assert (store.version, store.problem) == ("1.0.1", "")

    point(tmp_path / "current", again)
    store.refresh()
    assert store.version == "1.0.1"
    assert "must be made by the signing key" in store.problem


def key(signer: Signer = SIGNER) -> SigningKey:
    parsed = parse_key(signer.public_key)
    assert parsed is not None
    return parsed


@given(st.binary(max_size=5000))
def test_takes_what_the_key_signed(message: bytes) -> None:
    key().verify(message, SIGNER.sign(message))


@given(message=st.binary(min_size=1, max_size=200), bit=st.integers(0, 10_000))
def test_refuses_a_message_with_one_bit_changed(message: bytes, bit: int) -> None:
    changed = bytearray(message)
    changed[bit // 8 % len(message)] ^= 1 << bit % 8

    with pytest.raises(SignatureError, match="made by the signing key"):
        key().verify(bytes(changed), SIGNER.sign(message))


@given(st.binary(max_size=300))
def test_refuses_any_bytes_that_are_no_signature(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        key().verify(b"message", signature)


def test_refuses_the_signature_of_another_key() -> None:
    with pytest.raises(SignatureError, match="made by the signing key"):
        key(Signer()).verify(b"message", SIGNER.sign(b"message"))


@pytest.mark.parametrize("value", [None, ""])
def test_no_key_is_no_mistake(value: object) -> None:
    assert parse_key(value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (7, "got int"),
        ("no base64!", "got 'no base64!'"),
        (base64.b64encode(b"short").decode(), "not the DER form"),
        (Signer(ec.SECP384R1()).public_key, "not the DER form"),
        (base64.b64encode(base64.b64decode(SIGNER.public_key)[:-1] + b"\0").decode(), "not on the curve"),
    ],
)
def test_names_what_is_wrong_with_a_key(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match="signingKey must be base64 of a P-256 public key in DER") as caught:
        parse_key(value)

    assert reason in str(caught.value)


def test_opens_a_signed_package_and_says_whether_it_was_checked(tmp_path: Path) -> None:
    folder = SIGNER.sign_package(make_package(tmp_path / "p"))

    assert open_package(folder, key()).signed
    assert not open_package(folder).signed


def _swap_manifest(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "labels": manifest["labels"][::-1]}))


def _truncate_model(folder: Path) -> None:
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-100])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is missing: this device takes signed packages only": lambda folder: (folder / "manifest.sig").unlink(),
    "must be made by the signing key .....": lambda folder: (folder / "manifest.sig").write_bytes(b""),
    "must be made by the signing key": _swap_manifest,
    "must have .* bytes": _truncate_model,
    "over the manifest's very bytes": lambda folder: Signer().sign_package(folder),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_refuses_a_damaged_package(reason: str, tmp_path: Path) -> None:
    folder = SIGNER.sign_package(make_package(tmp_path / "p"))

    DAMAGES[reason](folder)

    with pytest.raises(ModelPackageError, match=reason):
        open_package(folder, key())


def test_checks_the_signature_before_it_reads_the_manifest(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    (folder / "manifest.json").write_bytes(b"[" * 100_000)

    with pytest.raises(ModelPackageError, match=r"manifest.sig is missing"):
        open_package(folder, key())
