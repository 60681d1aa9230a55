"""The entry point of Neo's PyTorch image, packed beside what Neo compiled as `code/inference.py`.

It runs in the image alone, whose Python may be 3.6, with the image's torch and its own `model_fn`, which loads the
compiled model. Requests and answers are those of the inference protocol, version 2, so that the same sample asks any
server; outputs have no names here, they come in the model's order.
"""

import json

TYPES = {"FP32": "float32", "FP64": "float64", "INT64": "int64", "INT32": "int32", "UINT8": "uint8"}
NAMES = {value: name for name, value in TYPES.items()}


def transform_fn(model, body, content_type, accept):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Answer one request: name (none), shape, datatype and data of each output."""
    import numpy as np
    import torch  # type: ignore[import-not-found,unused-ignore]

    inputs = [
        torch.from_numpy(np.array(each["data"], TYPES[each["datatype"]]).reshape(each["shape"]))
        for each in json.loads(body)["inputs"]
    ]
    with torch.no_grad():
        answer = model(*inputs)
    values = [each.numpy() for each in (answer if isinstance(answer, (list, tuple)) else [answer])]
    outputs = [
        {"datatype": NAMES[str(each.dtype)], "shape": list(each.shape), "data": each.ravel().tolist()}
        for each in values
    ]
    return json.dumps({"outputs": outputs}), "application/json"
