"""Where the twin's device does otherwise than nucleus lite, on purpose: two tables of docs/twin.md.

What it does alike is a fact of `nucleus_lite`, which rules and dialect read; nobody but the page reads these.
"""

from __future__ import annotations

from dataclasses import dataclass

from nucleus_lite import RELEASE

_BOTH = "core_device/test_both_devices.py"
_COMPONENT = "core_device/test_component.py"
_CONNECTION = "core_device/test_connection.py"
_DIALECT = "core_device/test_ipc_dialect.py"
_REFUSALS = "core_device/test_ipc_server.py::test_the_device_is_stricter_than_lite_or_says_more"


@dataclass(frozen=True)
class Difference:
    """Something that one of the two does otherwise.

    Args:
        real: What nucleus lite does; for a call of the IPC `<call>|<what>`.
        twin: What the twin's device does.
        shown_by: A test as `<file>::<name>` below `tests/`; empty for what is not there.
    """

    real: str
    twin: str
    shown_by: str = ""


DEVICE = (
    Difference(
        "systemd units, one Linux user for components",
        "child processes in groups of their own; as root, the user of `runWithDefault.posixUser`, else the user of the "
        "twin",
        f"{_COMPONENT}::test_stop_ends_the_whole_group_even_one_that_ignores_sigterm",
    ),
    Difference(
        "reconnects after up to 300 s",
        "after up to 3 s: a cloud on a laptop is away for seconds",
        f"{_CONNECTION}::test_the_waits_between_attempts_begin_anew_after_a_connection",
    ),
    Difference(
        "the cost of JSON grows steeply with its depth, and all components wait: 16 levels are safe",
        "refused from 17 levels on",
        f"{_DIALECT}::test_classic_does_what_lite_refuses",
    ),
    Difference(
        "systemd counts starts, those by deployments and of an hour before the nucleus was started anew included",
        "failures of a component count, from its last deployment or the device's start on: a laptop's twin deploys "
        "more often in an hour than a device in a week, and a component must not end because of that. Edgewright's own "
        "components count for themselves and end twice an hour at most",
        f"{_COMPONENT}::test_lite_counts_the_failures_of_an_hour_whatever_ran_well_between_them",
    ),
    Difference(
        "a script is cut at a missing `{configuration:/x}`, and what stands before it is run",
        "the component is BROKEN, and the log names the key: half a script shows nothing that a test can look for",
        "core_device/test_dialect.py::test_works_on_classic_and_fails_on_lite_with_its_reason",
    ),
    Difference(
        "about half of 20 QoS 1 publishes without a pause get ServiceError",
        "refused only when 2.5 MiB wait: components must retry all the same",
        f"{_CONNECTION}::test_messages_that_wait_for_the_cloud_have_a_bound",
    ),
    Difference(
        "PublishToIoTCore of QoS 1 is answered once it is in the socket: at most 10 messages, 15,000 bytes, are "
        "without an acknowledgement, and a new connection forgets them (clean session; `iotcored/src/mqtt.c`). The "
        "classic nucleus answers once its spooler has it: in memory, or on disk with the component DiskSpooler",
        "answered once it is on the device's disk, as with DiskSpooler, in both dialects: kept until the cloud has "
        "acknowledged it, sent again in order after a kill of the cloud or the device, perhaps twice "
        "([0132](decisions/0132-the-twins-device-keeps-messages-on-disk.md)). On a full disk the acknowledgement is "
        "waited for, 10 s",
        f"{_CONNECTION}::test_what_a_killed_device_had_taken_is_sent_by_the_next_one_in_order",
    ),
    Difference(
        "PublishToIoTCore of QoS 1 without a connection gets ServiceError (coreMQTT's `MQTTStatusNotConnected`, from "
        "its source)",
        "the same; the classic dialect takes 2.5 MiB and sends them later",
        f"{_CONNECTION}::test_nucleus_lite_refuses_messages_while_it_is_not_connected",
    ),
    Difference(
        "an artifact's files with `Permission` OWNER: whose they are where components have a user of their own was not "
        "seen",
        "the device's: such components cannot read them, so Edgewright's recipes say ALL",
        "core_device/test_archive.py::test_the_nucleus_decides_on_the_rights_and_not_the_archive",
    ),
    Difference(
        "a HARD dependency that ends stops its dependents, the deployment still SUCCEEDED",
        "stops them, BROKEN, and the deployment FAILED if it is still under way",
        f"{_BOTH}::test_a_hard_dependency_that_ends_stops_its_dependents_on_lite_only",
    ),
    Difference(
        "a script is cut or never run, a step left out, a value dropped, the fleet status of a 20th component lost, in "
        "silence",
        "the deployment is refused, with the reason",
        "core_device/test_dialect.py::test_every_broken_rule_of_a_recipe_is_told_at_once",
    ),
    Difference(
        "a `bootstrap` step of the classic nucleus that asks for a restart of the nucleus (100) or the device (101)",
        "taken as done, nothing is started again",
    ),
    Difference(
        "fleet status of the classic nucleus' shadow, log manager, CLI, Stream Manager, Docker and Lambda components",
        "not there",
    ),
    Difference(
        "IPC of the classic nucleus: shadows, secrets, metrics, ListComponents, DeferComponentUpdate, "
        "SubscribeToValidateConfigurationUpdates",
        "not there, as on nucleus lite",
    ),
)

IPC = (
    Difference("any error|code without a message", "code and message", _REFUSALS),
    Difference(
        "UpdateConfiguration with an older timestamp|accepted, nothing changes",
        "FailedUpdateConditionCheckError, as the API says",
        _REFUSALS,
    ),
    Difference("UpdateConfiguration of the root with a scalar|ServiceError", "InvalidArgumentsError", _REFUSALS),
    Difference("PublishToIoTCore with QoS 2|accepted", "ServiceError: the API has 0 and 1", _REFUSALS),
    Difference("PublishToIoTCore of 6.3 to 7.3 kB|taken by the socket, lost behind it", "ServiceError", _REFUSALS),
    Difference(
        "SubscribeToIoTCore of `a/#` where the policy has `a/+`|accepted: `+` covers the text `#`",
        "UnauthorizedError",
        f"{_DIALECT}::test_the_level_before_a_last_wildcard_is_not_allowed_by_it",
    ),
    Difference(
        "PublishToTopic to a topic with `+` or `#`, or to an empty one|accepted; UnauthorizedError",
        "ServiceError",
        _REFUSALS,
    ),
    Difference(
        "SubscribeToTopic with an unknown receive mode, or an empty topic|accepted; UnauthorizedError",
        "InvalidArgumentsError",
        _REFUSALS,
    ),
    Difference("UpdateState `NEW`|accepted", "ServiceError", _REFUSALS),
    Difference("ValidateAuthorizationToken|UnauthorizedError", "ServiceError: not served", _REFUSALS),
    Difference(
        "20 QoS 1 publishes in a row|about half ServiceError",
        "all taken (see above)",
        f"{_CONNECTION}::test_what_the_cloud_has_acknowledged_makes_room_for_more",
    ),
    Difference(
        "a frame of more than 10,012 bytes|the socket is closed",
        "a protocol error says so, then the same",
        "core_device/test_ipc_client.py::test_a_message_above_the_limit_ends_the_connection",
    ),
)

#: Heading of each of the two tables.
TABLES = (
    (("the real nucleus lite " + RELEASE, "the twin's device", "shown by"), DEVICE),
    (("call", "nucleus lite " + RELEASE, "the twin's device", "shown by"), IPC),
)
