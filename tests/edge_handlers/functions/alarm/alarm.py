"""A V1 function that tells the cloud and the horn beside the core what another one let through."""

import json

import greengrasssdk

client = greengrasssdk.client("iot-data")


def function_handler(event, context):
    client.publish(
        topic="site/alarm", payload=json.dumps({**event, "heard_on": context.client_context.custom["subject"]})
    )
    client.publish(topic="site/horn", payload=b"\x01")
