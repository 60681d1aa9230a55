"""What nucleus lite takes of a component's calls over Greengrass IPC."""

from __future__ import annotations

from nucleus_lite import OBSERVED, Fact

_DIALECT = "core_device/test_ipc_dialect.py"
_SERVER = "core_device/test_ipc_server.py"
_REFUSED = f"{_DIALECT}::test_classic_does_what_lite_refuses"

PAYLOAD_BYTES = Fact(
    "PublishToIoTCore of more than {value} bytes",
    source=OBSERVED,
    twin="ServiceError",
    shown_by=_REFUSED,
    value=6_300,
)
MESSAGE_BYTES = Fact(
    "an IPC frame of more than {value} bytes (PublishToTopic of 7.3 kB binary) ends the connection",
    source=OBSERVED,
    twin="the same",
    shown_by=_REFUSED,
    value=10_012,
)
NESTING = Fact(
    "JSON nested deeper than {value} levels, the request's own included",
    source=OBSERVED,
    twin="ServiceError or InvalidArgumentsError",
    shown_by=_REFUSED,
    value=16,
)
CLIENTS = Fact(
    "more than {value} IPC clients",
    source=OBSERVED,
    twin="one more is closed at once",
    shown_by=_REFUSED,
    value=50,
)
SUBSCRIPTIONS = Fact(
    "more than {value} IPC subscriptions",
    source=OBSERVED,
    twin="ServiceError",
    shown_by=_REFUSED,
    value=100,
)
ITEMS = Fact(
    "a list of many items in a request: {value} were taken, 200 refused",
    source=OBSERVED,
    twin="ServiceError from 101 items on",
    shown_by=_REFUSED,
    value=100,
)
PROPERTIES = Fact(
    "MQTT 5 properties and the retain flag of PublishToIoTCore are dropped, and those of what a component receives",
    source=OBSERVED,
    twin="the same; classic sends them",
    shown_by="core_device/test_connection.py::test_lite_drops_properties_and_the_retain_flag",
)
RECEIVE_MODES = Fact(
    "`RECEIVE_MESSAGES_FROM_OTHERS` is ignored: a component hears itself",
    source=OBSERVED,
    twin="the same",
    shown_by=f"{_DIALECT}::test_only_classic_leaves_out_a_component_s_own_messages",
)
OPEN_ANSWERS = Fact(
    "the stream of an answer stays open (AWS's client keeps 5 to 10 kB for each) until the client ends it",
    source="ggipcd/src/ipc_server.c (ggl_ipc_response_send)",
    twin="the same (classic ends it)",
    shown_by="edge/test_open_streams.py::test_only_a_stream_that_is_left_open_is_ended",
)
IPC_DAEMON = Fact(
    "after a restart of the IPC daemon no component that runs can connect again "
    "(Edgewright's end and are started anew)",
    source=OBSERVED,
    twin="`python -m twin fault DEVICE ipc`",
    shown_by="twin/test_devices.py::test_a_ring_gets_its_deployment_an_offline_member_catches_up_and_nothing_is_left",
)
MQTT_DAEMON = Fact(
    "after a restart of the MQTT daemon components hear nothing of what they have subscribed to, without an error "
    "(Edgewright's subscribe anew after 40 s without a message)",
    source=OBSERVED,
    twin="`python -m twin fault DEVICE mqtt`",
    shown_by=f"{_SERVER}::test_forgotten_subscriptions_end_in_silence_and_new_ones_work",
)
CONFIG_DAEMON = Fact(
    "after a restart of the configuration daemon components hear nothing of changes, without an error (Edgewright's "
    "read their configuration every 40 s)",
    source="ggipcd/src/ipc_subscriptions.c (subscription_on_close)",
    twin="`python -m twin fault DEVICE config`",
    shown_by=f"{_SERVER}::test_a_daemon_that_starts_anew_forgets_its_subscribers_and_no_other_daemon_s",
)
PUBSUB_DAEMON = Fact(
    "after a restart of the daemon for local messages components hear nothing of what they have subscribed to, without "
    "an error (Edgewright's subscribe anew after 40 s without a message)",
    source=OBSERVED,
    twin="`python -m twin fault DEVICE pubsub`",
    shown_by=f"{_SERVER}::test_a_daemon_that_starts_anew_forgets_its_subscribers_and_no_other_daemon_s",
)
TOKEN_DAEMON = Fact(
    "the token exchange listens at any free port whenever it starts, and running components keep the address before "
    "(Edgewright's look for the new one every 40 s, and start anew by themselves)",
    source="tes-serverd/src/http_server.c (http_server)",
    twin="`python -m twin fault DEVICE token`",
    shown_by="core_device/test_credentials.py::"
    "test_an_endpoint_that_starts_anew_is_at_another_port_and_no_more_at_the_one_before",
)
CREDENTIALS = Fact(
    "the credential endpoint asks the cloud at each request, and answers 200 with `null` without it",
    source=OBSERVED,
    twin="the same (classic keeps them, and answers 500)",
    shown_by="core_device/test_credentials.py::test_lite_keeps_no_credentials_and_answers_null_without_a_cloud",
)
PING = Fact(
    "a ping ends the connection",
    source=OBSERVED,
    twin="the same",
    shown_by=_REFUSED,
)
TOKEN = Fact(
    "a wrong token: the socket is closed without a word (classic: access denied)",
    source=OBSERVED,
    twin="the same",
    shown_by=f"{_DIALECT}::test_a_wrong_token_is_turned_away",
)
