"""Who may do what: one role for each of instance, device and compiler, and the devices' IoT policy."""

from collections.abc import Iterable

from constructs import Construct

from config.model import result_topics
from config.routes import CLOUD, THING
from config.stage import Stage
from edge_constructs.identities import (
    THING_NAME,
    CoreDevicePolicy,
    EdgeInstanceRole,
    SageMakerExecution,
    TokenExchange,
)
from stacks.stage_stack import StageStack, StorageStack


class IdentityStack(StageStack):
    """The roles and the policy that devices, the edge server and SageMaker act with.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: What they get access to.
    """

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, storage: StorageStack) -> None:
        super().__init__(scope, construct_id, stage=stage, kind="identity", description="Edgewright: roles and policy")
        names, models = self.names, [model.folder for model in stage.models]
        handlers = stage.wiring.handlers.values()
        bridged = stage.wiring.bridged if stage.client_devices else ()
        self.compiler = SageMakerExecution(
            self,
            "Compiler",
            bucket=storage.artifacts,
            in_vpc=any(model.neo.subnets for model in stage.models),
            serves=any(model.verify == "endpoint" for model in stage.models),
        )
        # Whether a model uses it or not: an export that comes and goes with the last one that does would be refused.
        self.export_value(self.compiler.role_arn)
        TokenExchange(
            self,
            "TokenExchange",
            alias=names.role_alias,
            bucket=storage.artifacts,
            client_devices=stage.client_devices is not None,
        )
        CoreDevicePolicy(
            self,
            "CoreDevice",
            name=names.iot_policy,
            role_alias=names.role_alias,
            namespace=names.topics,
            request_topics=[
                *map(names.request_topic, models),
                *policy_topics(topic for each in handlers for topic in each.subscribe),
                *(topic for topic, source, _ in bridged if source == CLOUD),
            ],
            response_topics=[
                *result_topics(names, stage.models),
                *policy_topics(topic for each in handlers for topic in each.publish),
                *(topic for topic, _, target in bridged if target == CLOUD),
            ],
            client_devices=stage.client_devices is not None,
        )
        self.edge_instance = EdgeInstanceRole(self, "EdgeInstance", join_function=names.join_function)
        self.needs(storage)


def policy_topics(topics: Iterable[str]) -> list[str]:
    """Write handlers' topics as the IoT policy names them.

    Args:
        topics: As the stage declares them.

    Returns:
        The topics, but those of the device's own thing, which are allowed to every device already.
    """
    named = [topic.replace(THING, THING_NAME) for topic in topics]
    return [topic for topic in named if not topic.startswith(f"$aws/things/{THING_NAME}/")]
