"""What an app of your own may use: the constructs, the checks, a stage's configuration and its stacks.

    from edgewright import EdgeChecks, Names, define_stacks, load_stage, new_app

These names stay as they are within a minor version; what is imported from anywhere else may change with any release.
A name is loaded when it is first asked for, since the constructs bring the CDK along.
"""

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.endings import settle_endings as settle_endings
    from config.loader import ConfigurationError as ConfigurationError
    from config.loader import load_stage as load_stage
    from config.loader import read_context as read_context
    from config.loader import stage_names as stage_names
    from config.names import Names as Names
    from config.stage import Stage as Stage
    from edge_constructs.artifact_store import ArtifactBucket as ArtifactBucket
    from edge_constructs.artifact_store import ArtifactStore as ArtifactStore
    from edge_constructs.artifact_store import EncryptionKey as EncryptionKey
    from edge_constructs.artifact_store import SigningKey as SigningKey
    from edge_constructs.component_library import Component as Component
    from edge_constructs.component_library import ComponentLibrary as ComponentLibrary
    from edge_constructs.component_library import component_version as component_version
    from edge_constructs.deploy_pipeline import DeployPipeline as DeployPipeline
    from edge_constructs.device_registry import DeviceRegistry as DeviceRegistry
    from edge_constructs.edge_assets import MissingAssetError as MissingAssetError
    from edge_constructs.edge_server import EdgeNetwork as EdgeNetwork
    from edge_constructs.edge_server import EdgeServer as EdgeServer
    from edge_constructs.edge_server import ServerJoin as ServerJoin
    from edge_constructs.fleet_deployment import DeploymentHealth as DeploymentHealth
    from edge_constructs.fleet_deployment import FleetDeployment as FleetDeployment
    from edge_constructs.fleet_provisioning import FleetProvisioning as FleetProvisioning
    from edge_constructs.fleet_rules import FleetRules as FleetRules
    from edge_constructs.fleet_rules import TopicRule as TopicRule
    from edge_constructs.handler_component import HandlerComponent as HandlerComponent
    from edge_constructs.handler_provider import HandlerProvider as HandlerProvider
    from edge_constructs.identities import CoreDevicePolicy as CoreDevicePolicy
    from edge_constructs.identities import EdgeInstanceRole as EdgeInstanceRole
    from edge_constructs.identities import SageMakerExecution as SageMakerExecution
    from edge_constructs.identities import TokenExchange as TokenExchange
    from edge_constructs.model_package import ModelPackage as ModelPackage
    from edge_constructs.model_package import ModelPackager as ModelPackager
    from edge_constructs.model_package import ModelVerifier as ModelVerifier
    from edge_constructs.model_package import OnnxCompiler as OnnxCompiler
    from edge_constructs.model_source import ModelDeclarationError as ModelDeclarationError
    from edge_constructs.model_source import ModelSource as ModelSource
    from edge_constructs.neo_compilation import CompilationTarget as CompilationTarget
    from edge_constructs.neo_compilation import NeoCompiler as NeoCompiler
    from edge_constructs.observability import DeploymentNotice as DeploymentNotice
    from edge_constructs.observability import FleetAlarms as FleetAlarms
    from edge_constructs.observability import FleetDashboard as FleetDashboard
    from edge_constructs.observability import NotificationTopic as NotificationTopic
    from edge_constructs.permission import Permission as Permission
    from edge_constructs.permission import acknowledge as acknowledge
    from edge_constructs.reproducible_zip import StrangerError as StrangerError
    from edge_constructs.synth import PolicyGate as PolicyGate
    from edge_constructs.synth import PolicyViolationError as PolicyViolationError
    from edge_constructs.synth import new_app as new_app
    from edge_rules.edge_checks import EdgeChecks as EdgeChecks
    from stacks.edgewright import define_stacks as define_stacks


def _defined_in() -> dict[str, str]:
    """Module by public name, as the imports above tell type checkers."""
    text = Path(__file__).read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line.startswith("    from ") and " as " in line)
    return {name: module for _, module, _, name, _, _ in lines}


_MODULES = _defined_in()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"edgewright has no public {name!r}: it has {', '.join(sorted(_MODULES))}")
    # jsii reads it when aws_cdk is imported.
    from tools.node import settle_jsii

    settle_jsii(os.environ)
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_MODULES)
