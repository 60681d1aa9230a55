"""What functions of V1 do to the process that they run in, on demand."""

import atexit
import json
import logging
import os
import signal
import sys

import greengrasssdk
from greengrasssdk.utils.testing import mock

logging.basicConfig(stream=sys.stdout, level=logging.DEBUG, format="mine %(message)s")
client = greengrasssdk.client("iot-data")
state = {}


class Goodbye:
    def __del__(self):
        client.publish(topic="t/out", payload='{"said": "at the very end"}')


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError("no text")


def report(**values):
    client.publish(topic="t/out", payload=json.dumps(values))


@mock
def handler(event, context):
    do = event["do"]
    if do == "fork":
        if os.fork() == 0:
            return
        report(forked=True)
    elif do == "publish in a fork":
        pid = os.fork()
        if pid == 0:
            try:
                report(forked=True)
            except greengrasssdk.Lambda.InvocationException as error:
                sys.stdout.write(f"in the fork: {error}\n")
                sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        report(waited=True)
    elif do == "payload":
        try:
            client.publish(topic="t/out", payload={"bytes": b"", "list": [1], "int": 5, "none": None}[event["kind"]])
        except TypeError as error:
            report(error=str(error))
    elif do == "huge":
        client.publish(topic="t/out", payload="x" * event["bytes"])
        report(after=True)
    elif do == "close":
        sys.stdout.close()
        report(closed=True)
    elif do == "no output":
        sys.stdout = None
        report(none=True)
    elif do == "unprintable":
        raise UnprintableError
    elif do == "signal":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif do == "exit":
        atexit.register(report, said="at exit")
        state["keep"] = Goodbye()
        sys.exit(3)
    elif do == "garble":
        # A forked process and a bug of the function may both write where only its process should.
        os.write(int(sys.argv[1]), (1 << 31 | 5).to_bytes(4, "big"))
    elif do == "print":
        logging.debug("a debug message")
        sys.stdout.write("ü \ud800 \U0001f680\n")
        report(printed=True)
    elif do == "surroundings":
        names = ("LAMBDA_TASK_ROOT", "PWD", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "MY_FUNCTION_ARN")
        report(**{name: os.environ[name] for name in names}, mine=hasattr(sys.modules["types"], "FunctionType"))


async def waiting(event, context):
    report(never=True)
