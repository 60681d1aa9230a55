"""Whether the devices' ONNX Runtime can load a model: asked where the model is declared, not on the first device."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from config.edge_server import CPU, WHEELS
from config.kept_answers import KEPT
from config.places import ASSETS
from edge_constructs.model_source import DECLARATION, ModelDeclarationError, ModelSource

#: Names the release that devices have.
LOCK = ASSETS / "runtime" / "requirements.lock"
_PIN = re.compile(r"^onnxruntime(?:-\w+)?==([\w.]+)", re.MULTILINE)
#: What a release takes at most, seen on it: the file format's version, and the operator sets by their domain.
LIMITS: dict[str, tuple[int, dict[str, int]]] = {
    "1.24.1": (13, {"": 25, "ai.onnx.ml": 5}),
    "1.31.1": (13, {"": 26, "ai.onnx.ml": 5}),
    "1.32.0": (14, {"": 28, "ai.onnx.ml": 5}),
}
OPENVINO = "openvino"
_FLOAT32 = "export in float32: to_onnx(model, rows[:1].astype(numpy.float32)) of skl2onnx, model.float() of PyTorch"
#: What the runtime says of a model that it does not load, and the setting of an export that helps.
_ADVICE = (
    (r"IR version", "set model.ir_version = {ir} before onnx.save, or export with an older onnx"),
    (
        r"Opset \d+|opset version",
        "export with opset_version={opset} (PyTorch), or target_opset={{'': {opset}, 'ai.onnx.ml': {ml}}} (skl2onnx)",
    ),
    (r"tensor\(double\)", _FLOAT32),
    (
        r"Could not find an implementation",
        f"{_FLOAT32}; a quantised model: an older opset, or another quantisation of that operator",
    ),
    (
        r"is not a registered function|No Op registered",
        "export with standard operators of ONNX: no device has the library that this one comes from",
    ),
    (r"INVALID_PROTOBUF|No graph was found", "it is no whole ONNX file: copy it anew, or fetch it (git lfs pull)"),
    (r"External data", "name the file of its weights in extras, with the path that the model has"),
)
_ANY = "load it with that release on the exporting machine, and export anew until it does"


def device_runtime(lock: Path = LOCK, accelerator: str = CPU) -> str:
    """Read which release of ONNX Runtime devices have.

    Args:
        lock: The runtime component's.
        accelerator: Which may need another build, of another release.

    Returns:
        Its version.
    """
    if accelerator != CPU:
        lock = lock.with_name(WHEELS[accelerator].lock)
    found = _PIN.search(lock.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{lock} must pin onnxruntime by ==")
    return found[1]


def check_model(source: ModelSource, version: str = "", accelerator: str = CPU) -> None:
    """Check that the devices' runtime can load a model.

    Format and operator sets are compared; where the release is installed, it loads the model, which tells of operators
    and types, too.

    Args:
        source: The model's folder, read; another framework than ONNX is passed over.
        version: The runtime's; that of the devices by default.
        accelerator: Where the model runs first; on the processor by default.

    Raises:
        ModelDeclarationError: It cannot, or would answer otherwise there; the text says why, and what helps.
    """
    name = source.declaration["source"]
    if source.declaration["framework"] != "ONNX":
        return
    version, file = version or device_runtime(), source.files[name]
    # Here they may lie beside the model; a device has what is declared.
    if missing := [path for path in weight_files(file) if path not in source.files]:
        raise ModelDeclarationError(
            f"{source.name}/{DECLARATION}: extras must name the files of the weights of {name}, with the paths that it "
            f"has, got no {', '.join(missing[:5])}"
        )
    try:
        _compare(read_header(file), version)
        # Importing the runtime takes a tenth of a synth, and a model that it has loaded loads again.
        KEPT.ask(f"loads {name} with {version}", source.files, Path(__file__), lambda: _load(file, version))
    except Exception as exc:
        problem = " ".join(str(exc).split())[:400]
        raise ModelDeclarationError(
            f"{source.name}/{name}: must load with ONNX Runtime {version}, which the devices have: {problem}: "
            f"{advice(problem, version)}"
        ) from exc
    if accelerator == OPENVINO and (otherwise := unlike_on_openvino(file)):
        raise ModelDeclarationError(
            f"{source.name}/{name}: must give the same on OpenVINO as elsewhere, got {'; '.join(otherwise)}: set "
            f"models.serving.accelerator to {CPU}, or export it so"
        )


def advice(problem: str, version: str) -> str:
    """Say what helps against what the runtime says of a model.

    Args:
        problem: Its words, or ours.
        version: The runtime's.
    """
    ir, opsets = LIMITS.get(version, LIMITS[max(LIMITS)])
    found = next((fix for pattern, fix in _ADVICE if re.search(pattern, problem)), _ANY)
    return found.format(ir=ir, opset=opsets[""], ml=opsets["ai.onnx.ml"]) if "{" in found else found


def installed_runtime() -> Any | None:
    """Import ONNX Runtime, if this environment has it: a synth needs none."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def _compare(header: "Header", version: str) -> None:
    ir, opsets = LIMITS.get(version, (header.ir_version, header.opsets))
    if header.ir_version > ir:
        raise ValueError(f"its IR version is {header.ir_version}, at most {ir} is taken")
    for domain, found in header.opsets.items():
        if found > (most := opsets.get(domain, found)):
            raise ValueError(f"its opset version of {domain or 'ai.onnx'} is {found}, at most {most} is taken")


def _load(file: Path, version: str) -> bool | None:
    """Load the model, if the release is installed; whether it was."""
    engine = installed_runtime()
    if engine is None or engine.__version__ != version:
        return None
    options = engine.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Types and kernels are looked up all the same; a large graph loads in a fraction of the time.
    options.graph_optimization_level = engine.GraphOptimizationLevel.ORT_DISABLE_ALL
    engine.InferenceSession(str(file), sess_options=options, providers=["CPUExecutionProvider"])
    return True


@dataclass(frozen=True)
class Header:
    """What an ONNX file says of itself before its graph is looked at.

    Attributes:
        ir_version: Of the file format; 0 where it does not say.
        opsets: Domain to version; the standard one is empty.
    """

    ir_version: int
    opsets: Mapping[str, int]


#: ModelProto of onnx.proto: ir_version, graph, opset_import; OperatorSetIdProto: domain, version.
_IR_VERSION, _GRAPH, _OPSET_IMPORT, _DOMAIN, _VERSION = 1, 7, 8, 1, 2
#: GraphProto: initializer; TensorProto: external_data; StringStringEntryProto: key, value.
_INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 5, 13, 1, 2
#: GraphProto: node; NodeProto: op_type, attribute; AttributeProto: name, i, s, ints.
_NODE, _OP_TYPE, _ATTRIBUTE, _NAME, _I, _S, _INTS = 1, 4, 5, 1, 3, 4, 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_header(file: Path) -> Header:
    """Read an ONNX file's header without reading its weights, and without a library.

    Args:
        file: A ModelProto.

    Returns:
        What it holds; an empty header for a file that is none, of which the runtime says more.
    """
    ir_version, opsets = 0, dict[str, int]()
    try:
        with file.open("rb") as stream:
            for number, value in _fields(stream, file.stat().st_size):
                if number == _IR_VERSION and isinstance(value, int):
                    ir_version = value
                elif number == _OPSET_IMPORT and isinstance(value, tuple):
                    stream.seek(value[0])
                    parts = dict(_fields(stream, value[1]))
                    domain, version = parts.get(_DOMAIN), parts.get(_VERSION, 0)
                    text = _text(stream, domain) if isinstance(domain, tuple) else ""
                    opsets["" if text == "ai.onnx" else text] = version if isinstance(version, int) else 0
                    stream.seek(value[1])
    except (EOFError, ValueError):
        return Header(0, {})
    return Header(ir_version, opsets)


def weight_files(file: Path) -> list[str]:
    """Read where a model has weights in files of their own, without reading the weights.

    Args:
        file: A ModelProto.

    Returns:
        Paths relative to the model's folder, each once; none for a file that is no model.
    """
    found: dict[str, None] = {}
    try:
        with file.open("rb") as stream:
            for tensor in _below(stream, (0, file.stat().st_size), _GRAPH, _INITIALIZER, _EXTERNAL_DATA):
                entry = {number: _text(stream, place) for number, place in _fields_of(stream, tensor)}
                if entry.get(_KEY) == "location":
                    found[PurePosixPath(entry.get(_VALUE, "")).as_posix()] = None
    except (EOFError, ValueError):
        return []
    return list(found)


def unlike_on_openvino(file: Path) -> list[str]:
    """Read what of a model OpenVINO computes otherwise, without an error, and without reading the weights.

    Args:
        file: A ModelProto; graphs within its graph are passed over.

    Returns:
        What it is, what OpenVINO does and how to export it, a text each; none for a file that is no model.
    """
    found = set()
    try:
        with file.open("rb") as stream:
            for node in _below(stream, (0, file.stat().st_size), _GRAPH, _NODE):
                parts = list(_fields_of(stream, node))
                operators = [_text(stream, place) for number, place in parts if number == _OP_TYPE]
                if operators and operators[0] in _UNLIKE:
                    attributes = dict(_attribute(stream, place) for number, place in parts if number == _ATTRIBUTE)
                    found.add(_UNLIKE[operators[0]](attributes))
    except (EOFError, ValueError, TypeError):  # an attribute may be of another kind than its operator has
        return []
    return sorted(found - {""})


def _unlike_resize(attributes: Mapping[str, Any]) -> str:
    policy = attributes.get(_RATIO, _STRETCH)
    return "" if policy == _STRETCH else f"Resize with {_RATIO} {policy}, for which OpenVINO stretches ({_STRETCH})"


def _unlike_max_pool(attributes: Mapping[str, Any]) -> str:
    kernel, strides, dilations, behind = _window(attributes)
    # Where the last window begins depends on the picture; only so wide a step, or padding, lets it begin behind it.
    reach = [step + pad - d * (size - 1) for size, step, d, pad in zip(kernel, strides, dilations, behind, strict=True)]
    if not attributes.get("ceil_mode") or max(reach, default=0) <= 1:
        return ""
    return (
        f"MaxPool with ceil_mode, kernel {kernel}, strides {strides} and padding {behind} behind, to which OpenVINO "
        "adds a window of nothing (ceil_mode 0)"
    )


def _unlike_average_pool(attributes: Mapping[str, Any]) -> str:
    *_, behind = _window(attributes)
    if not (attributes.get("ceil_mode") and attributes.get("count_include_pad") and any(behind)):
        return ""
    return f"AveragePool with ceil_mode and padding {behind} counted, whose last mean is too small (ceil_mode 0)"


def _window(attributes: Mapping[str, Any]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations and the padding behind of a pool, a number an axis."""
    kernel = list(attributes.get("kernel_shape") or ())
    # An empty list is one that is not there.
    strides, dilations = (attributes.get(name) or [1] * len(kernel) for name in ("strides", "dilations"))
    return kernel, strides, dilations, (attributes.get("pads") or [0] * 2 * len(kernel))[len(kernel) :]


_RATIO, _STRETCH = "keep_aspect_ratio_policy", "stretch"
#: Operators that OpenVINO 2026.4.1 may compute otherwise (findings/openvino-*.sh).
_UNLIKE = {"Resize": _unlike_resize, "MaxPool": _unlike_max_pool, "AveragePool": _unlike_average_pool}


def _attribute(stream: IO[bytes], place: tuple[int, int]) -> tuple[str, Any]:
    """Name and value of an attribute that is a text, a whole number or a list of these."""
    stream.seek(place[0])
    name, numbers = "", list[int]()
    value: str | int | None = None
    for part, found in list(_fields(stream, place[1])):
        if part == _NAME and isinstance(found, tuple):
            name = _text(stream, found)
        elif part == _S and isinstance(found, tuple):
            value = _text(stream, found)
        elif part == _I and isinstance(found, int):
            value = found
        elif part == _INTS and isinstance(found, int):
            numbers.append(found)
        elif part == _INTS and isinstance(found, tuple):  # some writers pack them
            stream.seek(found[0])
            while stream.tell() < found[1]:
                numbers.append(_varint(stream))
    return name, numbers or value


def _below(stream: IO[bytes], place: tuple[int, int], *numbers: int) -> Iterator[tuple[int, int]]:
    """Where the messages are that lie behind a path of field numbers."""
    if not numbers:
        yield place
        return
    for number, inner in _fields_of(stream, place):
        if number == numbers[0]:
            yield from _below(stream, inner, *numbers[1:])


def _fields_of(stream: IO[bytes], place: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int]]]:
    stream.seek(place[0])
    for number, value in _fields(stream, place[1]):
        if isinstance(value, tuple):
            yield number, value


def _text(stream: IO[bytes], place: tuple[int, int]) -> str:
    stream.seek(place[0])
    return stream.read(place[1] - place[0]).decode()


def _fields(stream: IO[bytes], end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """Number and value of each field: a whole number, or where bytes begin and end."""
    while stream.tell() < end:
        tag = _varint(stream)
        kind = tag & 7
        if kind == _VARINT:
            yield tag >> 3, _varint(stream)
        elif kind == _BYTES:
            size = _varint(stream)
            start = stream.tell()
            if start + size > end:
                raise EOFError
            yield tag >> 3, (start, start + size)
            stream.seek(start + size)
        elif kind in (_FIXED64, _FIXED32):
            stream.seek(8 if kind == _FIXED64 else 4, os.SEEK_CUR)
        else:
            raise ValueError(f"no field has the wire type {kind}")


def _varint(stream: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number has at most ten bytes")
