"""A function that does what its events say, for tests of its surroundings."""

import io
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import greengrasssdk

client = greengrasssdk.client("iot-data")
state = {"imported": os.getpid(), "events": 0}


def handler(event, context):
    state["events"] += 1
    do = event["do"]
    if do == "publish":
        payload = event["payload"]
        if event.get("as") == "bytes":
            payload = payload.encode()
        elif event.get("as") == "file":
            payload = io.BytesIO(payload.encode())
        arguments = {"topic": event["topic"], "payload": payload}
        if "policy" in event:
            arguments["queueFullPolicy"] = event["policy"]
        try:
            result = client.publish(**arguments)
        except Exception as error:
            report(error=type(error).__name__, text=str(error))
        else:
            report(result=result)
    elif do == "context":
        custom = context.client_context.custom
        names = ("function_name", "function_version", "invoked_function_arn", "memory_limit_in_mb", "aws_request_id")
        names += ("log_group_name", "log_stream_name")
        remaining = context.get_remaining_time_in_millis()
        report(custom=custom, remaining=remaining, **{name: getattr(context, name) for name in names})
    elif do == "state":
        report(pid=os.getpid(), cwd=str(Path.cwd()), variable=os.environ.get("MY_VARIABLE"), **state)
    elif do == "raise":
        raise RuntimeError("as told")
    elif do == "exit":
        sys.stdout.write("leaving\n")
        os._exit(7)
    elif do == "sleep":
        time.sleep(event["seconds"])
        report(slept=event["seconds"])
    elif do == "log":
        print("printed by the function")
        logging.getLogger().info("logged by the function")
        report(done=True)
    elif do == "burst":
        for number in range(event["first"], event["first"] + event["count"]):
            report(number=number)
            print(f"acknowledged {number}.", flush=True)
    elif do == "threads":

        def publish(number):
            report(number=number)

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(event["count"])]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]


def report(**values):
    client.publish(topic="t/out", payload=json.dumps(values))


def binary_handler(event, context):
    report(kind=type(event).__name__, length=len(event))
