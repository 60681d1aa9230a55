# A function as it was written for Greengrass V1: answers an index with the digit that the model sees in that sample.
import json
import os

import numpy as np
import onnxruntime

import greengrasssdk

client = greengrasssdk.client("iot-data")
session = onnxruntime.InferenceSession("model.onnx")
samples = np.load("samples.npz")["images"]


def function_handler(event, context):
    index = int(event["index"])
    pixels = (samples[index] / 16).astype(np.float32).reshape(1, 1, 8, 8)
    logits = session.run(None, {session.get_inputs()[0].name: pixels})[0][0]
    answer = {
        "request_id": event.get("request_id"),
        "index": index,
        "digit": int(logits.argmax()),
        "function": context.function_name,
        "topic": context.client_context.custom["subject"],
    }
    print("recognised", answer)
    client.publish(topic=os.environ["RESULT_TOPIC"], queueFullPolicy="AllOrException", payload=json.dumps(answer))
