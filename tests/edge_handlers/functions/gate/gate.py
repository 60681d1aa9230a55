"""A V1 function that lets through what is above a limit, which the cloud may change."""

import json

import greengrasssdk

client = greengrasssdk.client("iot-data")
limit = {"value": 10}


def function_handler(event, context):
    if context.client_context.custom["subject"] == "site/limit":
        limit["value"] = event["value"]
    elif event["value"] > limit["value"]:
        client.publish(topic="site/high", payload=json.dumps({**event, "limit": limit["value"]}))
