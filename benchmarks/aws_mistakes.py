"""The mistakes of docs/aws-truth.md made again in our own code, one at a time: the gate of each row must fail.

    .venv/bin/python -m benchmarks.aws_mistakes

Each is made in a copy of the tracked files, in which the row's tests run without it (they must pass) and with it; what
is printed is the gate that said so. A mistake in somebody else's app is told by the edge rules, which
tests/edge_rules/test_all_mistakes.py breaks all at once. Exit code 1 if a gate stays silent, or a mistake no longer
fits the code: then the table below is mended.
"""

import argparse
import sys

from benchmarks.unnoticed_changes import Change, make

SERVER = "constructs/edge_constructs/edge_server.py"
SERVER_KINDS = ("tests/nag/test_edge_server_kinds.py",)
SERVER_STACK = ("tests/unit/test_device_stacks.py",)
SCRIPT = "edge_assets/edge_server/user_data.sh"
JOIN = "constructs/edge_handlers/server_join.py"
JOIN_TESTS = ("tests/handlers/test_server_join.py",)
VERIFICATION = "constructs/edge_handlers/model_verification.py"
VERIFICATION_TESTS = ("tests/handlers/test_model_verification.py",)

#: `what` is the row's first cell.
CHANGES = (
    Change("Nucleus lite's packages", SERVER, '{"apt": 80},', "{},", SERVER_KINDS),
    Change(
        "The server's Python",
        "edge_assets/edge_server/nucleus_classic.sh",
        '"python$EDGEWRIGHT_PYTHON" unzip)',
        "python3.11 unzip)",
        SERVER_KINDS,
    ),
    Change(
        "The server's image followed the newest one",
        SERVER,
        "launch, image, network.cidr, text], sort_keys=True)",
        "launch, network.cidr, text], sort_keys=True)",
        SERVER_STACK,
    ),
    Change(
        "A replaced server was not waited for",
        SERVER,
        'self, f"Provisioned{self.fingerprint}", handle',
        'self, "Provisioned", handle',
        SERVER_STACK,
    ),
    Change(
        "A replaced server stayed empty",
        "stacks/inference_stack.py",
        'server.fingerprint if ring == of_server else ""',
        '""',
        SERVER_STACK,
    ),
    Change(
        "The compiler's function on Python 3.11",
        "constructs/edge_constructs/edge_assets.py",
        'return python if int(python.split(".")[1]) >= int(FUNCTION_PYTHON.split(".")[1]) else FUNCTION_PYTHON',
        "return python",
        ("tests/unit/test_edge_assets.py",),
    ),
    Change(
        "Messages of a failed deployment",
        "constructs/edge_constructs/observability.py",
        '{"StringLike": {"kms:EncryptionContext:aws:sns:topicArn": topics}}',
        '{"StringEquals": {"aws:SourceAccount": ACCOUNT}}',
        ("tests/unit/test_observability_stack.py",),
    ),
    Change(
        "Devices of a file were not told of, dev's alarm waited for a bench",
        "stacks/observability_stack.py",
        "*(device.name for device in stage.fleet.roster)",
        "*()",
        ("tests/unit/test_observability_stack.py",),
    ),
    Change(
        "A function in the framework's place",
        "constructs/edge_constructs/handler_provider.py",
        '"framework-onEvent"',
        '"Function"',
        ("tests/unit/test_handler_provider.py",),
    ),
    Change(
        "A retained stage could not be deployed again",
        "constructs/edge_constructs/artifact_store.py",
        "RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain",
        "RemovalPolicy.RETAIN if retain",
        ("tests/unit/test_stage_stack.py",),
    ),
    Change(
        "Stages `x` and `x-canary`; the edge server as a canary",
        "config/loader.py",
        'if longer.startswith(f"{shorter}-"):',
        "if False:",
        ("tests/edge_rules/test_all_mistakes.py",),
    ),
    Change(
        "A former server's certificate",
        JOIN,
        "former = [arn for arn in certificates if arn != new and things_of(arn, iot) == [server.thing]]",
        "former = list[str]()",
        JOIN_TESTS,
    ),
    Change(
        "The instance acted for any device",
        "constructs/edge_constructs/identities.py",
        'Permission(("lambda:InvokeFunction",), (arn("lambda", f"function:{join_function}"),)),',
        'Permission(("iot:AttachThingPrincipal",), ("*",), wildcard_reason="it has no resource type"),',
        ("tests/unit/test_device_stacks.py",),
    ),
    Change(
        "Any component reached the instance's role",
        SERVER,
        '"httpPutResponseHopLimit": 1',
        '"httpPutResponseHopLimit": 2',
        SERVER_KINDS,
    ),
    Change(
        "A destroy took members of a group that were never listed",
        "constructs/edge_handlers/device_registry.py",
        "if found is not None and attributes.get(OWNER) != registry.group:",
        "if False:",
        ("tests/handlers/test_device_removal.py",),
    ),
    Change(
        "A policy on a group or identity blocked the destroy",
        "constructs/edge_handlers/device_registry.py",
        "            check_targets(registry.policy, self._iot)",
        "            pass",
        ("tests/handlers/test_device_removal.py", "tests/handlers/test_fleet_provisioning.py"),
    ),
    Change(
        '`verify = "endpoint"` with `compiler = "neo"`',
        "stacks/models_stack.py",
        "            if compiled is None:\n                raise ModelDeclarationError(",
        "            if compiled is None:\n                print(",
        ("tests/unit/test_model_switches.py",),
    ),
    Change(
        "A deploy that may take longer than its pipeline",
        ".github/workflows/deploy.yml",
        "timeout-minutes: 240",
        "timeout-minutes: 60",
        ("tests/plan/test_workflows.py",),
    ),
    Change("The device policy's thing variable", JOIN, ', thingPrincipalType="EXCLUSIVE_THING")', ")", JOIN_TESTS),
    Change(
        "A claim certificate connected under any client id",
        "constructs/edge_constructs/identities.py",
        '[f"client/{CLAIM_CLIENT}"]',
        '["client/*"]',
        ("tests/unit/test_fleet_provisioning.py",),
    ),
    Change(
        "SageMaker's logs are kept for ever",
        VERIFICATION,
        '    finally:\n        end_of_logs(verification.name, client("logs"))',
        "    finally:\n        pass",
        VERIFICATION_TESTS,
    ),
    Change(
        "Neo's image, and an image of one's own, on an endpoint",
        "config/model.py",
        'return "sagemaker-inference-pytorch" if self.compiler == "neo" else "sagemaker-tritonserver"',
        'return "sagemaker-tritonserver"',
        ("tests/unit/test_model_switches.py",),
    ),
    Change(
        "The key of an endpoint's volume",
        "constructs/edge_constructs/model_package.py",
        '("kms:CreateGrant",)',
        '("kms:DescribeKey",)',
        ("tests/unit/test_model_switches.py",),
    ),
    Change(
        "What an endpoint is made of is not known at once",
        VERIFICATION,
        'settling(make, "ValidationException")',
        "make()",
        VERIFICATION_TESTS,
    ),
    Change(
        "A HEAD that is denied at first",
        "constructs/edge_handlers/answering.py",
        '"UnauthorizedException", "403")',
        '"UnauthorizedException")',
        ("tests/handlers/test_answering.py",),
    ),
    Change(
        "Client devices without Greengrass's service role",
        "tools/doctor.py",
        "if stage.client_devices:",
        "if False:",
        ("tests/unit/test_doctor.py",),
    ),
    Change(
        "A server of the kind t2",
        "config/edge_server.py",
        'if kind.startswith(("t1.", "t2.")):',
        "if False:",
        ("tests/unit/test_stage_files.py",),
    ),
    Change(
        "A zone without the server's kind",
        "tools/doctor.py",
        "have >= zones",
        "True",
        ("tests/unit/test_doctor.py",),
    ),
    Change(
        "A thing with more than three attributes was let go of without a type",
        "constructs/edge_handlers/device_registry.py",
        'found.get("thingTypeName") or UNTYPED',
        "UNTYPED",
        ("tests/handlers/test_device_registry.py",),
    ),
    Change(
        "A reason with a quotation mark",
        "constructs/edge_constructs/observability.py",
        '"detail": <detail>}',
        '"detail": "<detail>"}',
        ("tests/unit/test_observability_stack.py",),
    ),
)


def main() -> int:
    """Make the mistakes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, metavar="NUMBER", help="rows of the table, 1 the first")
    return int(make(CHANGES, parser.parse_args().numbers) > 0)


if __name__ == "__main__":
    sys.exit(main())
