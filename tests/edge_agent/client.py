"""A program of a customer: talks to the agent by stubs that protoc generated, as a separate process.

Reads calls as JSON lines from standard input and answers each on standard output:
{"verb", "request" in protobuf's JSON} → {"response"} or {"code", "details"}.
"""

import importlib
import json
import sys

import grpc
from google.protobuf import json_format


def main() -> None:
    stubs, socket = sys.argv[1:]
    sys.path.insert(0, stubs)
    messages, service = importlib.import_module("agent_pb2"), importlib.import_module("agent_pb2_grpc")
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        agent = service.AgentStub(channel)
        for line in sys.stdin:
            call = json.loads(line)
            request = json_format.ParseDict(call["request"], getattr(messages, f"{call['verb']}Request")())
            try:
                response = getattr(agent, call["verb"])(request, timeout=60, wait_for_ready=True)
                answer = {"response": json_format.MessageToDict(response, preserving_proto_field_name=True)}
            except grpc.RpcError as error:
                answer = {"code": error.code().name, "details": error.details()}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
