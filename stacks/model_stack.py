"""One model: from its source to the package that devices download."""

from aws_cdk import aws_ssm as ssm
from constructs import Construct

from config.stage import Model, Stage
from edge_constructs.component import component_version
from edge_constructs.edge_assets import MODEL_RECIPE, MODELS
from edge_constructs.model_package import ModelPackage
from edge_constructs.model_source import ModelSource
from edge_constructs.neo_compilation import CompilationTarget, NeoCompilation
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StageStack, build_folder
from stacks.storage_stack import StorageStack


class ModelStack(StageStack):
    """Publishes, compiles and packages one model.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        model: The model's.
        storage: Where its files go.
        identity: The role that compiles it.

    Raises:
        ModelDeclarationError: The model's folder cannot be used.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        stage: Stage,
        model: Model,
        storage: StorageStack,
        identity: IdentityStack,
    ) -> None:
        name = model.folder
        super().__init__(
            scope, construct_id, stage=stage, kind=f"model-{name}", description=f"Edgewright: the model {name}"
        )
        self.source = ModelSource.read(MODELS / name)
        archive, sha256 = self.source.write_archive(build_folder(self))
        target = CompilationTarget(
            framework=self.source.declaration["framework"],
            framework_version=self.source.declaration.get("frameworkVersion", ""),
            input_shapes=self.source.input_shapes,
            architecture=stage.runtime.architecture,
        )
        self.recipe_values = {
            "COMPONENT": self.names.model_component(name),
            "MODEL": name,
            "PACKAGE": self.names.model_package(name),
        }
        # The package's own digest is known only after the compilation: all that it follows from stands for it.
        self.version = component_version(
            MODEL_RECIPE, self.recipe_values, [sha256, repr(target), repr(self.source.declaration), model.compiler]
        )
        source_uri = storage.store.publish(self, "Source", file=archive, sha256=sha256, prefix=f"sources/{name}")
        compilation = NeoCompilation(
            self,
            "Compilation",
            job=self.names.compilation_job(name),
            role_arn=identity.compiler.role_arn,
            source_uri=source_uri,
            output_uri=f"s3://{storage.artifacts.name}/compiled",
            target=target,
            key_arn=storage.key.key.key_arn,
        )
        package = ModelPackage(
            self,
            "Package",
            bucket=storage.artifacts,
            model=name,
            package=self.names.model_package(name),
            version=self.version,
            compiled_uri=compilation.artifact_uri,
            source_uri=source_uri,
            manifest=self.source.declaration,
            key_arn=storage.key.key.key_arn,
        )
        # An export that another stack imports could never change again; a parameter can.
        ssm.CfnParameter(self, "PackageUri", name=self.names.model_parameter(name), type="String", value=package.uri)
        self.needs(storage, identity)
