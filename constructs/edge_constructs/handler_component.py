"""A Greengrass V1 function as a component."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from constructs import Construct

from config.places import FUNCTIONS
from config.routes import THING, Handler, HandlerTopics
from edge_constructs.artifact_store import ArtifactStore
from edge_constructs.component_library import (
    Component,
    ComponentLibrary,
    component_version,
    fill_recipe,
    local_access,
    soft_dependencies,
)
from edge_constructs.edge_assets import HANDLER_RECIPE, Archive, dependencies_archive, handler_archive
from edge_constructs.handler_check import HandlerDeclarationError, check_function, check_imports, provided_modules

_CLOUD, _LOCAL = "aws.greengrass.ipc.mqttproxy", "aws.greengrass.ipc.pubsub"
#: The nucleus' own variable for the device's name: filled in access control by the classic one, from 2.6.0 on.
THING_VARIABLE = "{iot:thingName}"
#: A list of the configuration to the service and the operation that must be allowed on each of its topics.
_OPERATIONS = {
    "subscribe": (_CLOUD, "aws.greengrass#SubscribeToIoTCore"),
    "publish": (_CLOUD, "aws.greengrass#PublishToIoTCore"),
    "localSubscribe": (_LOCAL, "aws.greengrass#SubscribeToTopic"),
    "localPublish": (_LOCAL, "aws.greengrass#PublishToTopic"),
}


class HandlerComponent(Construct):
    """Archives a function and makes a version of its component.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: The component's name.
        handler: The function as the stage declares it.
        topics: What it hears and says.
        runtime: Name of the runtime component, in whose environment it runs.
        python: Version of the device's interpreter.
        architecture: Of the device.
        wheels: The runtime component's archive.
        store: Takes the archives.
        library: Keeps the component's versions.
        folder: Where archives are made.
        nucleus: Which nucleus the function is offered to, as a manifest says it; any by default.
        version_parts: What else the version follows from; nothing by default.
        after: The component to create before this one.

    Raises:
        HandlerDeclarationError: The function's files do not fit its declaration, or a topic is not covered by the
            recipe's access control.
        MissingAssetError: Set-up has not bundled the function's packages.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        handler: Handler,
        topics: HandlerTopics,
        runtime: str,
        python: str,
        architecture: str,
        wheels: Archive,
        store: ArtifactStore,
        library: ComponentLibrary,
        folder: Path,
        nucleus: str = "*",
        version_parts: Sequence[str] = (),
        after: Component | None = None,
    ) -> None:
        super().__init__(scope, construct_id)
        function = FUNCTIONS / handler.folder
        check_function(handler, function, python)
        code = handler_archive(handler.name, function, folder)
        dependencies = dependencies_archive(handler.name, function, python, architecture, folder)
        check_imports(handler, function, python, provided_modules(python, dependencies.file, wheels))
        values = recipe_values(name, handler, topics, runtime, nucleus)
        digests = [code.sha256, dependencies.sha256, *version_parts]
        version = component_version(HANDLER_RECIPE, {**values, "DEPENDENCIES_URI": ""}, digests)
        filled = {**values, "VERSION": version, "ARTIFACT_URI": "", "DEPENDENCIES_URI": ""}
        check_access(json.loads(fill_recipe(HANDLER_RECIPE, filled)))
        uri = store.publish(
            self, "DependenciesArtifact", file=dependencies.file, sha256=dependencies.sha256, prefix="artifacts"
        )
        self.component = Component(
            self,
            "Component",
            library=library,
            name=name,
            version=version,
            recipe=HANDLER_RECIPE,
            values={**values, "DEPENDENCIES_URI": uri},
            artifact_uri=store.publish(self, "Artifact", file=code.file, sha256=code.sha256, prefix="artifacts"),
            after=after,
            settings=settings(handler),
        )


def recipe_values(
    name: str, handler: Handler, topics: HandlerTopics, runtime: str, nucleus: str = "*"
) -> dict[str, Any]:
    """What the recipe's placeholders stand for, all but VERSION, ARTIFACT_URI and DEPENDENCIES_URI.

    Args:
        name: The component's name.
        handler: The function as the stage declares it.
        topics: What it hears and says.
        runtime: Name of the runtime component.
        nucleus: Which nucleus the function is offered to, as a manifest says it.
    """
    local_subscribe, local_publish = _filled(topics.local_subscribe), _filled(topics.local_publish)
    return {
        "COMPONENT": name,
        "NAME": handler.name,
        "HANDLER": handler.handler,
        "SUBSCRIBE": _filled(topics.subscribe),
        "PUBLISH": _filled(topics.publish),
        "LOCAL_SUBSCRIBE": local_subscribe,
        "LOCAL_PUBLISH": local_publish,
        "LOCAL_ACCESS": local_access(name, subscribe=local_subscribe, publish=local_publish),
        # Nucleus lite 2.6.0 compares the variable as it stands: there the component would never be allowed its topics.
        "NUCLEUS": "aws_nucleus_classic" if topics.name_the_thing else nucleus,
        "RUNTIME": runtime,
        "DEPENDENCIES": soft_dependencies([runtime], credentials=handler.aws_credentials),
    }


def _filled(topics: Sequence[str]) -> list[str]:
    return [topic.replace(THING, THING_VARIABLE) for topic in topics]


def settings(handler: Handler) -> dict[str, Any]:
    """What the function's configuration says besides the recipe: nothing that the device must allow.

    Args:
        handler: The function as the stage declares it.
    """
    return {
        "pinned": handler.pinned,
        "encoding": handler.encoding,
        "timeoutSeconds": handler.timeout_s,
        "idleSeconds": handler.idle_s,
        "queueSize": handler.queue_size,
        "memoryMb": handler.memory_mb,
        "environment": dict(handler.environment),
    }


def check_access(recipe: Mapping[str, Any]) -> None:
    """Check that the device will allow what the function's configuration says.

    Args:
        recipe: The filled recipe.

    Raises:
        HandlerDeclarationError: A subscribed or published topic is not in the access control.
    """
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    for key, (service, operation) in _OPERATIONS.items():
        policies = configuration.get("accessControl", {}).get(service, {}).values()
        allowed = {topic for policy in policies if operation in policy["operations"] for topic in policy["resources"]}
        if missing := [topic for topic in configuration.get(key, []) if topic not in allowed]:
            raise HandlerDeclarationError(
                f"{recipe['ComponentName']}: accessControl must allow {operation} on each topic of {key}, "
                f"not on {', '.join(missing)}"
            )
