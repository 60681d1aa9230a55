"""A V1 function of the walk-through's kind: says which iris has the four features of an event."""

import json
import os

import numpy as np
import onnxruntime

import greengrasssdk

client = greengrasssdk.client("iot-data")
session = onnxruntime.InferenceSession("model.onnx")


def function_handler(event, context):
    features = np.array([event["features"]], np.float32)
    outputs = session.run(None, {session.get_inputs()[0].name: features})
    probabilities = next(each for each in outputs if each.dtype == np.float32)[0]
    answer = {"request_id": event["request_id"], "iris": int(np.argmax(probabilities))}
    client.publish(topic=os.environ["OUT"], payload=json.dumps(answer))
