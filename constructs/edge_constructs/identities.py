"""What each may do: core devices and clients, devices that join, the edge server's instance, SageMaker's jobs."""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.artifact_store import ArtifactBucket
from edge_constructs.permission import Permission, ServiceRole, arn, everywhere

#: Filled by AWS IoT with the name of the thing that the certificate is attached to.
THING_NAME = "${iot:Connection.Thing.ThingName}"
#: In an IAM policy: the thing for which AWS IoT's credential provider gave the session.
CREDENTIALS_THING = "${credentials-iot:ThingName}"
#: Jobs, fleet status and shadows of that thing. AWS IoT allows a policy 2,048 characters (API reference, CreatePolicy):
#: the nucleus' thirteen topics one by one would take 2,300, and none of them is another thing's.
_OWN = f"$aws/things/{THING_NAME}/*"
LIMIT_CHARACTERS = 2048
#: The shadow by which AWS tells a core that its connectivity information has changed ("Client device auth").
_CONNECTIVITY = f"$aws/things/{THING_NAME}-gci/shadow/*"
_OF_CLIENT_DEVICES = (
    "greengrass:GetConnectivityInfo",
    "greengrass:PutCertificateAuthorities",
    "greengrass:UpdateConnectivityInfo",
    "greengrass:VerifyClientDeviceIdentity",
    "greengrass:VerifyClientDeviceIoTCertificateAssociation",
)


class CoreDevicePolicy(Construct):
    """Connects a core device as its own thing, to its own topics and those of the stage's namespace.

    Topics below the namespace are covered by what they end with (`edgewright/dev/*/request`): the policy is as long for
    thirty models as for one. Which of them a component may use is said by its access control, topic by topic.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        role_alias: Alias of the token exchange role.
        namespace: What the stage's own topics start with.
        request_topics: Exact topics that the device's components subscribe to.
        response_topics: Exact topics that they publish to.
        client_devices: Whether AWS's components for client devices run on it: they say where their broker is and who
            signs for it, ask who a client is, and follow a shadow.

    Raises:
        ValueError: The policy would be longer than AWS IoT allows.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        role_alias: str,
        namespace: str,
        request_topics: Sequence[str],
        response_topics: Sequence[str],
        client_devices: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        requests, responses = by_namespace(namespace, request_topics), by_namespace(namespace, response_topics)
        statements = [
            # The classic nucleus opens further connections as <thing>#2, <thing>#3 …
            _allow("iot:Connect", [f"client/{THING_NAME}", f"client/{THING_NAME}#*"]),
            _allow("iot:Publish", [f"topic/{topic}" for topic in (_OWN, *responses)]),
            _allow("iot:Subscribe", [f"topicfilter/{topic}" for topic in (_OWN, *requests)]),
            _allow("iot:Receive", [f"topic/{topic}" for topic in (_OWN, *requests)]),
            _allow("iot:AssumeRoleWithCertificate", [f"rolealias/{role_alias}"]),
            {
                "Effect": "Allow",
                "Action": [
                    "greengrass:GetComponentVersionArtifact",
                    "greengrass:GetDeploymentConfiguration",
                    "greengrass:ListThingGroupsForCoreDevice",
                    "greengrass:ResolveComponentCandidates",
                    *(_OF_CLIENT_DEVICES if client_devices else ()),
                ],
                "Resource": "*",
            },
        ]
        if client_devices:
            # `topic*` is topics and topic filters: one resource in place of three, of a policy with little room.
            shadow = _allow("iot:Publish", [f"topic*/{_CONNECTIVITY}"])
            statements.append({**shadow, "Action": ["iot:Publish", "iot:Receive", "iot:Subscribe"]})
        exact = [topic for topic in (*requests, *responses) if not topic.startswith(f"{namespace}/*/")]
        fix = (
            f"{len(exact)} of its topics lie outside {namespace}/<name>/<kind>: {', '.join(exact)}; move them there, "
            "where one entry covers all of a kind, or use fewer or shorter ones"
        )
        self.resource = _policy(self, name, statements, fix)


class ClientDevicePolicy(Construct):
    """Lets a client device discover its cores, and connect to AWS IoT as itself; to say or hear nothing there.

    Variables of a thing are not filled in on Greengrass's data plane (developer guide, "Device authentication"), so who
    may discover is said by names. Greengrass answers a certificate for its own thing only.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        things: Names of client devices, or what they begin with and `*`.

    Raises:
        ValueError: The policy would be longer than AWS IoT allows.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str, things: Sequence[str]) -> None:
        super().__init__(scope, construct_id)
        statements = [
            _allow("iot:Connect", [f"client/{THING_NAME}"]),
            _allow("greengrass:Discover", [f"thing/{thing}" for thing in things]),
        ]
        fix = "say what the client devices' names begin with (client_devices.select)"
        self.resource = _policy(self, name, statements, fix)


#: Each `?` is one character of a random UUID, as which both nuclei connect with a claim: the classic one's plug-in
#: unless its deviceId says otherwise, nucleus lite's fleet-provisioning always. No name of a thing looks like one.
CLAIM_CLIENT = "-".join("?" * length for length in (8, 4, 4, 4, 12))


class ClaimPolicy(Construct):
    """The IoT policy of the claim certificates, which many devices share and anybody may have copied.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The policy's name.
        template: Name of the provisioning template.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str, template: str) -> None:
        super().__init__(scope, construct_id)
        # The classic nucleus' plug-in lets AWS make the key, nucleus lite signs a request with one of its own.
        calls = (
            "$aws/certificates/create/json",
            "$aws/certificates/create-from-csr/json",
            f"$aws/provisioning-templates/{template}/provision/json",
        )
        answers = [f"{call}/{answer}" for call in calls for answer in ("accepted", "rejected")]
        statements = [
            # A connection under a device's name would take that device's own down.
            _allow("iot:Connect", [f"client/{CLAIM_CLIENT}"]),
            _allow("iot:Publish", [f"topic/{call}" for call in calls]),
            _allow("iot:Subscribe", [f"topicfilter/{answer}" for answer in answers]),
            _allow("iot:Receive", [f"topic/{answer}" for answer in answers]),
        ]
        self.resource = _policy(self, name, statements, "give the provisioning template a shorter name")


def by_namespace(namespace: str, topics: Sequence[str]) -> list[str]:
    """Cover the topics of a namespace by what they end with; the others, and those of a thing, stay exact.

    Args:
        namespace: Such as `edgewright/dev`.
        topics: Exact ones.

    Returns:
        What a policy lists, each once, in order.
    """
    own = re.compile(rf"{re.escape(namespace)}/[^$]+/([^/$]+)")
    found = ((topic, own.fullmatch(topic)) for topic in topics)
    return list(dict.fromkeys(f"{namespace}/*/{match[1]}" if match else topic for topic, match in found))


def _allow(action: str, resources: Sequence[str]) -> dict[str, Any]:
    # A policy holds in its own Region and account only: naming them would take a fifth of the characters there are.
    named = [arn("iot", resource, region="*", account="*") for resource in resources]
    return {"Effect": "Allow", "Action": action, "Resource": named}


def _policy(scope: Construct, name: str, statements: Sequence[dict[str, Any]], fix: str) -> iot.CfnPolicy:
    if (length := characters(statements)) > LIMIT_CHARACTERS:
        raise ValueError(f"IoT policy {name} must have at most {LIMIT_CHARACTERS} characters, got {length}: {fix}")
    document = {"Version": "2012-10-17", "Statement": statements}
    return iot.CfnPolicy(scope, "Resource", policy_name=name, policy_document=document)


def characters(statements: Sequence[dict[str, Any]]) -> int:
    """Length of a document of such statements without white space, with the longest partition that tokens stand for."""
    text = json.dumps({"Version": "2012-10-17", "Statement": statements}, separators=(",", ":"))
    return len(re.sub(r"\$\{Token\[[^]]*\]\}", "aws-us-gov", text))


CREDENTIALS_LIFETIME = Duration.hours(1)


class TokenExchange(Construct):
    """Lets core devices fetch artifacts and write their own captures, and nothing else.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        alias: Name of the role alias.
        bucket: The artifacts, and the captures below `captures/<thing>/`.
        client_devices: Whether they ask which client devices are theirs.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        alias: str,
        bucket: ArtifactBucket,
        client_devices: bool = False,
    ) -> None:
        super().__init__(scope, construct_id)
        # Auth renews by it what it knows of client devices ("Authenticating clients while offline").
        own_clients = Permission(
            ("greengrass:ListClientDevicesAssociatedWithCoreDevice",),
            (arn("greengrass", f"coreDevices:{CREDENTIALS_THING}"),),
        )
        role = ServiceRole(
            self,
            "Role",
            service="credentials.iot.amazonaws.com",
            permissions=[
                *bucket.reading("artifacts/", "models/"),
                *bucket.adding(f"captures/{CREDENTIALS_THING}/"),
                Permission(("s3:GetBucketLocation",), (bucket.arn,)),
                Permission(
                    ("greengrass:ListThingGroupsForCoreDevice",),
                    (arn("greengrass", "coreDevices:*"),),
                    wildcard_reason="all core devices share the role; without the call they miss removals",
                ),
                *((own_clients,) if client_devices else ()),
            ],
        )
        self.alias = iot.CfnRoleAlias(
            self,
            "Alias",
            role_alias=alias,
            role_arn=role.arn,
            credential_duration_seconds=int(CREDENTIALS_LIFETIME.to_seconds()),
        )


_SESSIONS = "SSM's agent acts on channels that have no names of their own"


class EdgeInstanceRole(Construct):
    """Asks one function for its certificate, and lets operators in through Session Manager in place of an open port.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        join_function: Name of the function.
    """

    def __init__(self, scope: Construct, construct_id: str, *, join_function: str) -> None:
        super().__init__(scope, construct_id)
        role = ServiceRole(
            self,
            "Role",
            service="ec2.amazonaws.com",
            permissions=[
                Permission(("lambda:InvokeFunction",), (arn("lambda", f"function:{join_function}"),)),
                Permission(
                    (
                        "ssm:UpdateInstanceInformation",
                        "ssmmessages:CreateControlChannel",
                        "ssmmessages:CreateDataChannel",
                        "ssmmessages:OpenControlChannel",
                        "ssmmessages:OpenDataChannel",
                    ),
                    ("*",),
                    wildcard_reason=_SESSIONS,
                ),
            ],
        )
        self.profile_name = iam.CfnInstanceProfile(self, "Profile", roles=[role.name]).ref


class SageMakerExecution(Construct):
    """Lets compilation jobs read model sources, write compiled models and log.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        bucket: Sources and results.
        in_vpc: Whether a job runs in a VPC, for which SageMaker makes network interfaces with this role.
        serves: Repositories of the images of endpoints that verify models, for which they read their own form of them.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        bucket: ArtifactBucket,
        in_vpc: bool = False,
        serves: Collection[str] = (),
    ) -> None:
        super().__init__(scope, construct_id)
        reads = ("verification/",) if serves else ()
        log_group = arn("logs", "log-group:/aws/sagemaker/CompilationJobs")
        role = ServiceRole(
            self,
            "Role",
            service="sagemaker.amazonaws.com",
            permissions=[
                *bucket.access(reads=("sources/", *reads), writes=("compiled/",)),
                bucket.listing(),
                Permission(
                    ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
                    (log_group, f"{log_group}:*"),
                    wildcard_reason="SageMaker names the streams of this log group after its jobs",
                ),
                *([_network_interfaces()] if in_vpc else []),
                *(_serving(serves) if serves else []),
            ],
        )
        self.role_arn = role.arn


def _network_interfaces() -> Permission:
    """What SageMaker's guide asks for where a job has a VpcConfig."""
    verbs = (
        "CreateNetworkInterface",
        "CreateNetworkInterfacePermission",
        "DeleteNetworkInterface",
        "DeleteNetworkInterfacePermission",
        "DescribeDhcpOptions",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSubnets",
        "DescribeVpcs",
    )
    return Permission(
        tuple(f"ec2:{verb}" for verb in verbs),
        ("*",),
        wildcard_reason="SageMaker makes the interface, so its id is not known; the describing calls know no resource",
    )


def _serving(repositories: Collection[str]) -> list[Permission]:
    """What SageMaker's guide asks for where a role runs an endpoint of one of AWS's images."""
    log_group = arn("logs", "log-group:/aws/sagemaker/Endpoints/*")
    return [
        everywhere("ecr:GetAuthorizationToken"),
        Permission(
            ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"),
            tuple(arn("ecr", f"repository/{name}", account="*") for name in sorted(repositories)),
            wildcard_reason="an image of AWS lies in an account that differs from region to region",
        ),
        Permission(
            ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"),
            (log_group, f"{log_group}:*"),
            wildcard_reason="SageMaker names the log group after the endpoint",
        ),
    ]
