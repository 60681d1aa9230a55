"""A client device beside a Greengrass core: finds the core, asks its models, listens.

    python client.py discover                  # where the cores are, from the cloud; kept in cores.json
    python client.py ask digits --index 7      # or --image FILE; on the local network, the cloud is not needed
    python client.py listen                    # what is said to this device

It needs paho-mqtt and nothing else; the files that it reads lie beside it.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import queue
import ssl
import sys
import uuid
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

HERE = Path(__file__).resolve().parent
CERTIFICATE, KEY, ROOT_CA = HERE / "device.pem.crt", HERE / "private.pem.key", HERE / "root_ca.pem"
SETTINGS, CORES = HERE / "client.json", HERE / "cores.json"
PATIENCE_S = 30.0


def settings() -> dict[str, Any]:
    """Who this device is, and where its cloud."""
    return dict(json.loads(SETTINGS.read_text("utf-8")))


def tls(authorities: str) -> ssl.SSLContext:
    """A context that shows this device's certificate and trusts these authorities alone (PEM)."""
    context = ssl.create_default_context(cadata=authorities)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


def discover() -> list[dict[str, Any]]:
    """Ask the cloud for this device's cores, and keep the answer for when the cloud is not reached.

    Raises:
        SystemExit: The cloud refuses, or knows no core.
    """
    known = settings()
    host, context = known["discovery_host"], tls(ROOT_CA.read_text("utf-8"))
    # The twin is reached through its proxy; AWS, for whom client.json would name none, directly.
    through, port = known.get("proxy") or (host, 8443)
    connection = http.client.HTTPSConnection(through, port, context=context, timeout=PATIENCE_S)
    if known.get("proxy"):
        connection.set_tunnel(host, 8443)
    try:
        connection.request("GET", f"/greengrass/discover/thing/{known['thing']}")
        answer = connection.getresponse()
        body = answer.read().decode()
    except (OSError, http.client.HTTPException) as exc:
        # A certificate that is not active is answered with the end of the connection.
        sys.exit(
            f"{host} gives no answer: {exc!r}; is the cloud reached, and the certificate of {known['thing']} active?"
        )
    if answer.status != 200:
        sys.exit(f"discovery was refused with {answer.status}: {body}; has {known['thing']} a core with a broker?")
    groups: list[dict[str, Any]] = json.loads(body)["GGGroups"]
    CORES.write_text(json.dumps(groups, indent=1), "utf-8")
    return groups


def connected(on_message: Any) -> mqtt.Client:
    """A client of the first core that can be reached; the client id must be the thing's name.

    Raises:
        SystemExit: None can, or it turns this device away.
    """
    groups = json.loads(CORES.read_text("utf-8")) if CORES.exists() else discover()
    tried = []
    for group in groups:
        for core in group["Cores"]:
            for place in core["Connectivity"]:
                client = mqtt.Client(CallbackAPIVersion.VERSION2, settings()["thing"], protocol=mqtt.MQTTv311)
                client.tls_set_context(tls("".join(group["CAs"])))
                answers: queue.Queue[Any] = queue.Queue()
                client.on_connect = lambda _c, _u, _f, code, _p, told=answers: told.put(code)
                client.on_message = on_message
                try:
                    client.connect(place["HostAddress"], place["PortNumber"], keepalive=30)
                    client.loop_start()
                    code = answers.get(timeout=PATIENCE_S)
                except (OSError, queue.Empty) as exc:
                    tried.append(f"{place['HostAddress']}:{place['PortNumber']}: {exc or 'no answer'}")
                    client.loop_stop()
                    continue
                if not code.is_failure:
                    return client
                client.loop_stop()
                tried.append(f"{place['HostAddress']}:{place['PortNumber']}: {code}")
    sys.exit(f"no core lets {settings()['thing']} in: {'; '.join(tried)}; after a change: python client.py discover")


def ask(model: str, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to a model of the core, and wait for its answer.

    Raises:
        SystemExit: There is none in time.
    """
    prefix, number = settings()["topic_prefix"], uuid.uuid4().hex[:8]
    answers: queue.Queue[dict[str, Any]] = queue.Queue()
    client = connected(lambda _c, _u, message: answers.put(json.loads(message.payload)))
    granted: queue.Queue[Any] = queue.Queue()
    client.on_subscribe = lambda _c, _u, _id, codes, _p: granted.put(codes)
    client.subscribe(f"{prefix}/{model}/response", qos=1)
    try:
        if granted.get(timeout=PATIENCE_S)[0].is_failure:
            sys.exit(f"{settings()['thing']} may not listen on {prefix}/{model}/response")
        client.publish(f"{prefix}/{model}/request", json.dumps({"request_id": number, **request}), qos=1)
        while True:
            answer = answers.get(timeout=PATIENCE_S)
            if answer.get("request_id") == number:
                return answer
    except queue.Empty:
        sys.exit(f"no answer on {prefix}/{model}/response within {PATIENCE_S:g} s")
    finally:
        client.disconnect()
        client.loop_stop()


def listen(topic_filter: str) -> None:
    """Print what comes, until Ctrl-C."""
    client = connected(lambda _c, _u, message: print(message.topic, message.payload.decode(errors="replace")))
    client.subscribe(topic_filter, qos=1)
    try:
        while client.is_connected():
            client.loop(timeout=1.0)
    except KeyboardInterrupt:
        pass
    finally:
        client.disconnect()


def main() -> None:
    """Read the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("discover")
    asking = commands.add_parser("ask")
    asking.add_argument("model")
    asking.add_argument("--index", type=int, help="place in the model's held-out samples; default: 0")
    asking.add_argument("--image", type=Path, help="a picture")
    listening = commands.add_parser("listen")
    listening.add_argument("topic_filter", nargs="?", default=f"{settings()['topic_prefix']}/+/response")
    options = parser.parse_args()
    if options.command == "discover":
        for group in discover():
            for core in group["Cores"]:
                places = ", ".join(f"{place['HostAddress']}:{place['PortNumber']}" for place in core["Connectivity"])
                print(f"{core['thingArn']} at {places}, {len(group['CAs'])} authorities")
    elif options.command == "ask":
        picture = options.image and {"image": base64.b64encode(options.image.read_bytes()).decode()}
        print(json.dumps(ask(options.model, picture or {"index": options.index or 0})))
    else:
        listen(options.topic_filter)


if __name__ == "__main__":
    main()
