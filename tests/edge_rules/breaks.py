"""One way to break each rule, alone: what is done to the sample fleet, and where the finding must be."""

from typing import Any

from tests.edge_rules.device_breaks import DEVICE, DEVICE_ALSO, DEVICE_KEEPS
from tests.edge_rules.nucleus_breaks import NUCLEUS, NUCLEUS_ALSO, NUCLEUS_KEEPS, merge
from tests.edge_rules.sample_fleet import CODE_DIGEST, COMPILER_DIGEST, HASH, RUNTIME_RECIPE, Fleet, inline
from tests.edge_rules.small_elf import shared_object, wheel
from tests.edge_rules.ways import Break, access, configuration, deployment, platform, script


def device_policy(action: str, resource: str) -> Break:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return lambda fleet: fleet.properties("DevicePolicy")["PolicyDocument"]["Statement"].append(statement)


def token_exchange(action: str, resource: str) -> Break:
    statement = {"Effect": "Allow", "Action": [action], "Resource": resource}

    def change(fleet: Fleet) -> None:
        fleet.properties("TokenExchange")["Policies"][0]["PolicyDocument"]["Statement"].append(statement)

    return change


def token_exchange_policy(action: str, resource: str) -> Break:
    """A policy of its own that names the role."""
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    properties = {"Roles": [{"Ref": "TokenExchange"}], "PolicyDocument": {"Statement": statement}}
    return add("Extra", "AWS::IAM::Policy", properties)


def no_groups(fleet: Fleet) -> None:
    fleet.properties("TokenExchange")["Policies"][0]["PolicyDocument"]["Statement"].pop()


def add(logical_id: str, kind: str, properties: dict[str, Any]) -> Break:
    return lambda fleet: fleet.resources.update({logical_id: {"Type": kind, "Properties": properties}})


def start(text: str) -> Break:
    return lambda fleet: setattr(fleet, "script", text)


def also_start(text: str) -> Break:
    return lambda fleet: setattr(fleet, "script", f"{text}\n{fleet.script}")


def other_machine(fleet: Fleet) -> None:
    """A machine that is no core device: its image may be the newest one, its Python any."""
    fleet.resources["Shop"] = {
        "Type": "AWS::EC2::Instance",
        "Properties": {
            "ImageId": "{{resolve:ssm:/aws/service/al2023}}",
            "SecurityGroupIds": [{"Ref": "WayOut"}],
            "UserData": {"Fn::Base64": "#!/bin/sh\ndnf install --assumeyes python3.12\n"},
        },
    }


def second_lock(fleet: Fleet) -> None:
    fleet.wheels.append("grpcio-1.85.1-cp311-cp311-manylinux2014_aarch64.whl")
    fleet.other_locks["agent.lock"] = f"grpcio==1.85.1{HASH}\n"


def optimiser(runtime: str, *, python: str, glibc: str = "2.28") -> Break:
    """What the compiler's function runs on, and the wheel that it is given."""
    wheels = {f"numpy-2.4.6-{python}-{python}-manylinux_2_28_aarch64.whl": wheel(glibc)}

    def change(fleet: Fleet) -> None:
        fleet.properties("Optimiser")["Runtime"] = runtime
        fleet.compiler = wheels

    return change


def layer(fleet: Fleet) -> None:
    """A layer with a library, on a function that no custom resource serves."""
    add("Tools", "AWS::Lambda::LayerVersion", {"Content": {"S3Key": f"{COMPILER_DIGEST}.zip"}})(fleet)
    add("Plain", "AWS::Lambda::Function", {"Runtime": "python3.11", "Layers": [{"Ref": "Tools"}]})(fleet)
    fleet.compiler = {"python/package.so": shared_object("GLIBC_2.27")}


def events_key(condition: dict[str, Any]) -> Break:
    principal = {"Service": ["cloudwatch.amazonaws.com", "events.amazonaws.com"]}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "kms:Decrypt", "Condition": condition}
    return add("Key", "AWS::KMS::Key", {"KeyPolicy": {"Statement": [statement]}})


_PLAIN = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80}


def way_out(*rules: dict[str, Any]) -> Break:
    return lambda fleet: fleet.properties("WayOut").update(SecurityGroupEgress=list(rules))


def ubuntu(fleet: Fleet) -> None:
    fleet.parameters["Image"]["Default"] = "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/ami-id"
    also_start("dpkg --status python3-venv unzip")(fleet)


def machine_may(action: str) -> Break:
    statement = {"Effect": "Allow", "Action": [action], "Resource": "*"}

    def change(fleet: Fleet) -> None:
        fleet.properties("ServerRole")["Policies"][0]["PolicyDocument"]["Statement"].append(statement)

    return change


def metadata(**options: Any) -> Break:
    return lambda fleet: fleet.properties("Server").setdefault("MetadataOptions", {}).update(options)


def no_metadata(fleet: Fleet) -> None:
    metadata(HttpEndpoint="disabled", HttpTokens="optional")(fleet)
    fleet.closing = ""


def wheels(*names: str) -> Break:
    return lambda fleet: fleet.wheels.extend(names)


def large_artifact(fleet: Fleet) -> None:
    file = fleet.folder / "model.zip"
    with file.open("wb") as sparse:
        sparse.truncate(2 * 1024**3 + 1)
    fleet.properties("RuntimeCopy")["SourceKey"] = f"{'c' * 64}.bin"
    written = fleet.view

    def view() -> Any:
        found = written()
        return type(found)(found.templates, {**found.assets, "c" * 64: file.rename(file.with_suffix(".bin"))})

    fleet.view = view  # type: ignore[method-assign]


def stable_abi_wheel(fleet: Fleet) -> None:
    fleet.wheels.append("crypt-1.0-cp38-abi3-manylinux_2_28_aarch64.whl")
    fleet.lock.append(f"crypt==1.0{HASH}")


def second_deployment(fleet: Fleet) -> None:
    fleet.resources["Second"] = fleet.resources["Deployment"]


def same_version_again(fleet: Fleet) -> None:
    recipe = {**RUNTIME_RECIPE, "ComponentDescription": "not the same"}
    fleet.resources["Again"] = {**fleet.resources["Runtime"], "Properties": {"InlineRecipe": inline(recipe)}}


def code(text: str) -> Break:
    return lambda fleet: setattr(fleet, "code", text)


ON_INFERENCE: dict[str, Break] = {
    "RecipeJson": lambda fleet: fleet.properties("Inference").update(InlineRecipe="ComponentName: plant.Inference"),
    "RecipeSize": lambda fleet: fleet.inference.update(ComponentPublisher="x" * 8192),
    "ArtifactsList": lambda fleet: fleet.manifest.pop("Artifacts"),
    "ArtifactKey": lambda fleet: fleet.manifest["Artifacts"].append({"Uri": "s3://plant/models/latest/model.zip"}),
    "ArchitectureArm64": platform(architecture="arm64"),
    "ArchitectureRegex": platform(architecture="/(amd64|aarch64)/"),
    "PlatformRuntime": lambda fleet: fleet.manifest["Platform"].pop("runtime"),
    "HardDependency": lambda fleet: fleet.inference["ComponentDependencies"]["plant.Runtime"].pop("DependencyType"),
    "DependencyRange": lambda fleet: fleet.inference["ComponentDependencies"]["plant.Runtime"].update(
        VersionRequirement="^1.0.0"
    ),
    "ConfigurationValueSize": configuration(labels="x" * 1023),
    "CrossComponentVariable": script('cp "{plant.Runtime:artifacts:path}/x" .'),
    "ScriptBrace": script('echo "${HOME}"'),
    "InstallOnly": lambda fleet: fleet.manifest.update(Lifecycle={"install": "true"}),
    "LifecycleStep": lambda fleet: fleet.manifest["Lifecycle"].update(shutdown="true"),
    "RequiresPrivilege": lambda fleet: fleet.manifest["Lifecycle"]["run"].update(RequiresPrivilege=True),
    "SetenvValue": lambda fleet: fleet.manifest["Lifecycle"].update(Setenv={"OPTIONS": "-a -b"}),
    "UnpackedPath": script('exec sh "{artifacts:decompressedPath}/"'),
    "PathSlash": script('cd "{work:path}"'),
    "Bash": script("bash start"),
    "NetworkInstall": script("pip3 install numpy"),
    "IpcOperationWildcard": access(operations=["*"]),
    "IpcTopicWildcard": access(resources=["plant/+/request"]),
    "TopicAccess": configuration(models={"digits": {"responseTopic": "plant/digits/response"}}),
    "CodeTopicAccess": code('publish_to_iot_core(topic_name="plant/forgotten", payload=b"")\n'),
    "LineEnds": lambda fleet: setattr(fleet, "start", "cd work\r\nexec python3 -m inference\r\n"),
    "GreengrassV1Sdk": script("python3 -c 'import greengrasssdk'"),
    "ComponentRetain": lambda fleet: fleet.resources["Inference"].update(UpdateReplacePolicy="Delete"),
}


ON_INFERENCE |= NUCLEUS
ON_RUNTIME: dict[str, Break] = {
    "ArtifactsTotal": large_artifact,
    "RequirementPinned": lambda fleet: fleet.lock.append(f"pillow>=13{HASH}"),
    "RequirementHashed": lambda fleet: fleet.lock.append("pillow==13.0.0"),
    "WheelLocked": wheels("pillow-13.0.0-py3-none-any.whl"),
    "WheelPython": wheels("numpy-2.4.6-cp313-cp313-manylinux_2_28_aarch64.whl"),
    "ArtifactGlibc": lambda fleet: setattr(fleet, "glibc", "2.35"),
    "WheelArchitecture": wheels("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl"),
}
ON_DEPLOYMENT: dict[str, Break] = {
    "DeploymentSize": deployment("Components/aws.greengrass.Nucleus/Merge", "x" * 31 * 1024),
    "DeploymentPacket": merge({f"label{number}": "x" * 900 for number in range(5)}),
    "DeploymentKeys": merge({part: dict.fromkeys(map(str, range(60)), 1) for part in "abcd"}),
    "AbortCriteria": deployment("IotJobConfiguration/AbortConfig", {}),
    "Rollback": deployment("DeploymentPolicies/FailureHandlingPolicy", "DO_NOTHING"),
    "UpdatePolicy": deployment("DeploymentPolicies/ComponentUpdatePolicy/Action", "SKIP_NOTIFY_COMPONENTS"),
    "RolloutRate": deployment("IotJobConfiguration/JobExecutionsRolloutConfig", {}),
    "VersionPin": deployment("Components/plant.Runtime/ComponentVersion", ">=1.0.0"),
    "VersionDefined": deployment("Components/plant.Runtime/ComponentVersion", "1.4.8"),
}
ELSEWHERE: dict[str, tuple[str, Break]] = {
    "OneDeployment": ("Second", second_deployment),
    "VersionTwice": ("Again", same_version_again),
    "IotPolicyAction": ("DevicePolicy", device_policy("iot:*", "arn:aws:iot:::topic/plant/digits/response")),
    "IotPolicyResource": ("DevicePolicy", device_policy("iot:Publish", "arn:aws:iot:::topic/*")),
    "IotClientId": ("DevicePolicy", device_policy("iot:Connect", "arn:aws:iot:::client/*")),
    "TokenExchangeScope": ("TokenExchange", token_exchange("s3:GetObject", "arn:aws:s3:::plant/*")),
    "TokenExchangeManaged": (
        "TokenExchange",
        lambda fleet: fleet.properties("TokenExchange")["ManagedPolicyArns"].append("policy/AmazonS3FullAccess"),
    ),
    "TokenExchangeGroups": ("TokenExchange", no_groups),
    "InstallerProvision": ("Server", start("java -jar Greengrass.jar --provision true")),
    "InstallerRoleAlias": ("Server", start("java -jar Greengrass.jar --tes-role-alias-name Alias")),
    "ServerEgress": ("Server", start("retry apt-get install --yes --quiet unzip")),
    "ServerPython": ("Server", also_start("retry dnf install --assumeyes python3.12 unzip")),
    "TopicKeySource": ("Key", events_key({"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}})),
    "FunctionGlibc": ("Optimiser", optimiser("python3.11", python="cp311")),
    "FunctionWheel": ("Optimiser", optimiser("python3.13", python="cp312")),
    "GreengrassImage": ("Server", start("docker run --rm amazon/aws-iot-greengrass:latest")),
    "EdgeManager": ("Fleet", add("Fleet", "AWS::SageMaker::DeviceFleet", {})),
    "NeoVersion": ("Compilation", lambda fleet: fleet.properties("Compilation").update(FrameworkVersion="2.0")),
    "GreengrassV1": ("Core", add("Core", "AWS::Greengrass::CoreDefinition", {})),
    "Panorama": ("Camera", add("Camera", "AWS::Panorama::ApplicationInstance", {})),
    "AmazonLinux2": ("Server", lambda fleet: fleet.parameters["Image"].update(Default="amzn2-ami-hvm-x86_64-gp2")),
    "ServerMetadata": ("Server", lambda fleet: setattr(fleet, "closing", "")),
    "ServerRights": ("ServerRole", machine_may("iot:AttachThingPrincipal")),
    "ServerImage": (
        "Server",
        lambda fleet: fleet.parameters["Image"].update(Type="AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>"),
    ),
    "AmiTyped": ("Server", lambda fleet: fleet.properties("Server").update(ImageId="ami-0abcdef1234567890")),
}
BREAKS: dict[str, tuple[str, Break]] = {
    **{name: ("Inference", each) for name, each in ON_INFERENCE.items()},
    **{name: ("Runtime", each) for name, each in ON_RUNTIME.items()},
    **{name: ("Deployment", each) for name, each in ON_DEPLOYMENT.items()},
    **ELSEWHERE,
    **DEVICE,
}

#: More ways to break a rule.
ALSO: list[tuple[str, str, Break]] = [
    ("IotClientId", "DevicePolicy", device_policy("iot:Connect", "arn:aws:iot:::client/??*")),
    ("TokenExchangeScope", "TokenExchange", token_exchange("s3:*", "arn:aws:s3:::plant/artifacts/*")),
    ("TokenExchangeScope", "TokenExchange", token_exchange_policy("s3:GetObject", "*")),
    ("TokenExchangeScope", "TokenExchange", token_exchange("s3:DeleteObject", "arn:aws:s3:::plant/artifacts/*")),
    ("EdgeManager", "TokenExchange", token_exchange("sagemaker:CreateEdgePackagingJob", "arn:aws:sagemaker:::job/x")),
    ("LineEnds", "Inference", script('cd "{work:path}/"\r\nexec true')),
    ("LineEnds", "Inference", lambda fleet: fleet.more_code.update({"bin/tool": "#!/bin/sh\r\nexit"})),
    ("LineEnds", "Inference", lambda fleet: fleet.more_code.update({"bin/tool": "\ufeff#!/bin/sh\nexit"})),
    ("LineEnds", "Inference", lambda fleet: fleet.more_code.update({"bin/tool.sh": "\ufeffexit\n"})),
    ("RolloutRate", "Deployment", deployment("IotJobConfiguration/JobExecutionsRolloutConfig/MaximumPerMinute", 2000)),
    ("AbortCriteria", "Deployment", deployment("IotJobConfiguration/AbortConfig/CriteriaList", [])),
    ("VersionPin", "Deployment", deployment("Components/aws.greengrass.Nucleus/ComponentVersion", "LATEST")),
    ("ScriptBrace", "Inference", script("f() { true; }")),
    ("NetworkInstall", "Inference", script("curl -o model https://example.com/model")),
    ("LifecycleStep", "Inference", lambda fleet: fleet.manifest["Lifecycle"]["run"].update(Skipif="exists /x")),
    ("SetenvValue", "Inference", lambda fleet: fleet.manifest["Lifecycle"].update(Setenv={"COUNT": 3})),
    ("InstallerRoleAlias", "Server", start("java -jar Greengrass.jar -trn Role")),
    ("IotPolicyResource", "DevicePolicy", device_policy("iot:Subscribe", "arn:aws:iot:::topicfilter/#")),
    ("ServerEgress", "Server", start("curl --fail http://mirror.example/nucleus.zip")),
    ("ServerEgress", "Server", start("export NUCLEUS_URL='http://mirror.example/n.zip'\ncurl \"$NUCLEUS_URL\"")),
    ("ServerEgress", "Server", way_out({"IpProtocol": "tcp", "FromPort": 443, "ToPort": 8443})),
    ("ServerPython", "Server", also_start("export PYTHON='3.13'\ndnf install \"python$PYTHON\" unzip")),
    ("ServerPython", "Server", ubuntu),
    ("ServerMetadata", "Server", metadata(HttpPutResponseHopLimit=2)),
    ("ServerMetadata", "Server", lambda fleet: fleet.properties("Server").pop("MetadataOptions")),
    ("ServerRights", "ServerRole", machine_may("iot:*")),
    ("ServerRights", "ServerRole", machine_may("iot:UpdateCertificate")),
    (
        "ServerImage",
        "Server",
        lambda fleet: fleet.properties("Server").update(ImageId="{{resolve:ssm:/aws/service/al2023}}"),
    ),
    ("FunctionGlibc", "Optimiser", optimiser("python3.12", python="cp312", glibc="2.35")),
    ("FunctionGlibc", "Plain", layer),
    *NUCLEUS_ALSO,
    *DEVICE_ALSO,
]

#: Near misses: changes that keep every rule.
KEEPS: dict[str, Break] = {
    "a document that just fits": merge({f"label{number}": "x" * 900 for number in range(4)}),
    "many settings of a component of the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="classic"),
        fleet.runtime["Manifests"][0]["Platform"].update(runtime="classic"),
        merge({f"label{number}": "x" * 900 for number in range(5)})(fleet),
    ),
    "an abort on ALL": deployment(
        "IotJobConfiguration/AbortConfig/CriteriaList", [{"Action": "CANCEL", "FailureType": "ALL"}]
    ),
    "carriage returns in what is no script": lambda fleet: fleet.more_code.update(
        {"a.csv": "a\r\n", "b": "\ufeffa\r\n"}
    ),
    **NUCLEUS_KEEPS,
    "a key for EventBridge and a topic": events_key({"StringLike": {"kms:EncryptionContext:aws:sns:topicArn": "*"}}),
    "a function on Amazon Linux 2 with a wheel for it": optimiser("python3.11", python="cp311", glibc="2.26"),
    "wheels of another Python beside the function's own": lambda fleet: fleet.compiler.update(
        {"numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl": wheel("2.38")}
    ),
    "a device's library that just fits": lambda fleet: setattr(fleet, "glibc", "2.9"),
    **DEVICE_KEEPS,
    "a machine that may speak to everybody": lambda fleet: (
        way_out({"IpProtocol": "-1"})(fleet),
        start("apt-get update")(fleet),
    ),
    "a group that names no way out, which is all of them": lambda fleet: (
        fleet.properties("WayOut").pop("SecurityGroupEgress"),
        start("apt-get update")(fleet),
    ),
    "a way out that is a resource of its own": lambda fleet: (
        add("More", "AWS::EC2::SecurityGroupEgress", {"GroupId": {"Ref": "WayOut"}, **_PLAIN})(fleet),
        start("apt-get update")(fleet),
    ),
    "a package that is only spoken of": start("# apt-get install would need port 80 and http://mirror.example"),
    "the instance's own metadata": start("curl http://169.254.169.254/latest/api/token"),
    "the Python of the wheels by a setting": also_start("export PYTHON='3.11'\ndnf install \"python$PYTHON\" unzip"),
    "an exponential rate": deployment("IotJobConfiguration/JobExecutionsRolloutConfig", {"ExponentialRate": {}}),
    "a wheel with an older stable ABI": stable_abi_wheel,
    "a wheel of a second lock file": second_lock,
    "an install without network": script('pip install --no-index "{artifacts:decompressedPath}/code/x.whl"'),
    "a longer recipe for the classic nucleus": lambda fleet: (
        fleet.manifest["Platform"].update(runtime="classic"),
        fleet.inference.update(ComponentDescription="x" * 8192),
    ),
    "an artifact under its digest": lambda fleet: fleet.manifest["Artifacts"].append(
        {"Uri": f"s3://plant/artifacts/{CODE_DIGEST}/more.zip"}
    ),
    "a topic that is computed": code("publish_to_iot_core(topic_name=topics.response)\n"),
    "code that this Python cannot parse": code("publish(topic_name='x'\n"),
    "a machine that only reads": machine_may("iot:DescribeEndpoint"),
    "a machine that sends devices messages": machine_may("iot:Publish"),
    "a machine that is no core device": other_machine,
    "a port that only the deploy knows": way_out(
        {"IpProtocol": "tcp", "FromPort": {"Ref": "P"}, "ToPort": {"Ref": "P"}}
    ),
    "a machine without metadata": no_metadata,
    "metadata closed by iptables": lambda fleet: setattr(
        fleet, "closing", "iptables -A OUTPUT -d 169.254.169.254 -m owner ! --uid-owner root -j REJECT"
    ),
    "an image that is looked up at the launch": lambda fleet: fleet.properties("Server").update(
        ImageId="resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
    ),
    "an image by a version of its parameter": lambda fleet: fleet.properties("Server").update(
        ImageId="{{resolve:ssm:/aws/service/al2023:42}}"
    ),
    "a framework without a matrix": lambda fleet: fleet.properties("Compilation").update(
        Framework="XGBOOST", FrameworkVersion="3.2"
    ),
}
