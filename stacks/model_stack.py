"""One model: from its source to the package that devices download."""

import shutil
from pathlib import Path

from aws_cdk import Annotations, CrossStackReferences, ReferenceStrength
from aws_cdk import aws_ssm as ssm
from constructs import Construct

from config.model import Model
from config.stage import Stage
from edge_constructs.component_library import component_version
from edge_constructs.edge_assets import MODEL_RECIPE, MODELS, ROOT, MissingAssetError, compiler_archive
from edge_constructs.model_package import ModelPackage, OnnxCompilation
from edge_constructs.model_runtime import check_model
from edge_constructs.model_source import ModelSource
from edge_constructs.model_verification import ModelVerification, triton_image
from edge_constructs.neo_compilation import CompilationLimits, CompilationTarget, EdgePackaging, NeoCompilation
from edge_constructs.reproducible_zip import check_member, sha256_of
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StageStack, build_folder
from stacks.storage_stack import StorageStack

SAMPLE = "verification.json"
#: Part of every model's version: a package of another form needs another one.
_PACKAGE_FORM = "signed-1"


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
        ModelDeclarationError: The model's folder cannot be used, or the devices' runtime cannot load the model.
        CompilationError: SageMaker would refuse the compilation job.
        MissingAssetError: Set-up has not made the wheels that `compiler = "onnxruntime"` runs, or there is no sample.
        StrangerError: The sample is a link that leads out of the assets.
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
        # A model that is taken out leaves its stack: what that stack imports could neither change nor be destroyed
        # before it. The exports stay for stacks of former deploys, which import them until they are updated.
        CrossStackReferences.of(self).consume(ReferenceStrength.BOTH)
        Annotations.of(self).acknowledge_warning(
            "@aws-cdk/core:crossStackReferencesBothTransitional", "the exports are for stacks of former deploys"
        )
        self.source = ModelSource.read(MODELS / name)
        check_model(self.source)
        self._stage, self._model, self._storage, self._identity = stage, model, storage, identity
        archive, sha256 = self.source.write_archive(build_folder(self))
        self.recipe_values = {
            "COMPONENT": self.names.model_component(name),
            "MODEL": name,
            "PACKAGE": self.names.model_package(name),
        }
        source_uri = storage.store.publish(self, "Source", file=archive, sha256=sha256, prefix=f"sources/{name}")
        compiled_uri, *compiler = {
            "neo": self._compile_by_neo,
            "onnxruntime": self._compile_by_onnx_runtime,
            "none": self._leave_as_it_is,
        }[model.compiler](source_uri)
        manifest = {**self.source.declaration, "compiler": model.compiler, **self._provenance()}
        # The package's own digest is known only after the compilation: all that it follows from stands for it.
        self.version = component_version(
            MODEL_RECIPE, self.recipe_values, [sha256, *compiler, repr(manifest), _PACKAGE_FORM, *stage.version_parts]
        )
        verification = self._verify(compiled_uri or source_uri) if model.verify == "endpoint" else None
        package = ModelPackage(
            self,
            "Package",
            bucket=storage.artifacts,
            model=name,
            package=self.names.model_package(name),
            version=self.version,
            compiled_uri=compiled_uri,
            source_uri=source_uri,
            manifest=manifest,
            key_arn=storage.key.key.key_arn,
            signing_key=storage.signing_key,
        )
        if verification:
            package.node.add_dependency(verification)
        # An export that another stack imports could never change again; a parameter can.
        for construct_id, parameter, value in (
            ("PackageUri", self.names.model_parameter(name), package.uri),
            ("SigningKey", self.names.signing_key_parameter(name), package.public_key),
        ):
            ssm.CfnParameter(self, construct_id, name=parameter, type="String", value=value)
        self.needs(storage, identity)

    def _compile_by_neo(self, source_uri: str) -> tuple[str, ...]:
        """The artifact's URI, and what decides it besides the source."""
        neo, declaration = self._model.neo, self.source.declaration
        target = CompilationTarget(
            framework=declaration["framework"],
            framework_version=declaration.get("frameworkVersion", ""),
            input_shapes=self.source.input_shapes,
            architecture=self._stage.runtime.architecture,
            device=neo.device,
            accelerator=neo.accelerator,
            compiler_options=neo.compiler_options,
        )
        compilation = NeoCompilation(
            self,
            "Compilation",
            job=self.names.compilation_job(self.source.name),
            role_arn=self._identity.compiler.role_arn,
            source_uri=source_uri,
            output_uri=f"s3://{self._storage.artifacts.name}/compiled",
            target=target,
            key_arn=self._storage.key.key.key_arn,
            limits=CompilationLimits(neo.max_runtime_minutes, neo.subnets, neo.security_groups),
        )
        if self._model.packager == "edge-manager":
            return self._pack_by_edge_manager(compilation), repr(target), self._model.packager
        return compilation.artifact_uri, repr(target)

    def _pack_by_edge_manager(self, compilation: NeoCompilation) -> str:
        name = self.source.name
        packaging = EdgePackaging(
            self,
            "EdgePackaging",
            job=self.names.compilation_job(name),
            compilation_job=compilation.job_name,
            model=name,
            version="1.0",
            role_arn=self._identity.compiler.role_arn,
            output_uri=f"s3://{self._storage.artifacts.name}/compiled/edge-manager",
            key_arn=self._storage.key.key.key_arn,
        )
        return packaging.artifact_uri

    def _compile_by_onnx_runtime(self, source_uri: str) -> tuple[str, ...]:
        runtime = self._stage.runtime
        archive = compiler_archive(runtime.python, runtime.architecture, build_folder(self))
        compilation = OnnxCompilation(
            self,
            "Compilation",
            bucket=self._storage.artifacts,
            model=self.source.name,
            job=self.names.compilation_job(self.source.name),
            source_uri=source_uri,
            runtime_uri=self._storage.store.publish(
                self, "Runtime", file=archive.file, sha256=archive.sha256, prefix="artifacts"
            ),
            input_shapes=self.source.input_shapes,
            python=runtime.python,
            architecture=runtime.architecture,
            key_arn=self._storage.key.key.key_arn,
        )
        return compilation.artifact_uri, archive.sha256

    def _leave_as_it_is(self, _source_uri: str) -> tuple[str, ...]:
        return ("",)

    def _verify(self, model_uri: str) -> ModelVerification:
        settings, name = self._model.verification, self.source.name
        sample = sample_file(MODELS / name)
        sha256 = sha256_of(sample)
        copy = build_folder(self) / sha256 / SAMPLE
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample, copy)
        sample_uri = self._storage.store.publish(self, "Sample", file=copy, sha256=sha256, prefix=f"sources/{name}")
        return ModelVerification(
            self,
            "Verification",
            bucket=self._storage.artifacts,
            name=self.names.compilation_job(name),
            model=name,
            model_uri=model_uri,
            sample_uri=sample_uri,
            image=settings.image or triton_image(self._stage.region),
            instance_type=settings.instance_type,
            tolerance=settings.tolerance,
            role_arn=self._identity.compiler.role_arn,
            key_arn=self._storage.key.key.key_arn,
        )

    def _provenance(self) -> dict[str, str]:
        """The commit that a pipeline builds from, where it says so: then each commit makes a new version."""
        commit = self.node.try_get_context("source_commit")
        return {"sourceCommit": commit} if commit else {}


def sample_file(folder: Path) -> Path:
    """Find the sample that a model is asked on an endpoint.

    Args:
        folder: The model's.

    Raises:
        MissingAssetError: There is none.
        StrangerError: It is a link that leads out of the assets.
    """
    sample, name = folder / SAMPLE, folder.name
    if sample.is_symlink() or sample.exists():
        check_member(sample, folder, ROOT)
    if not sample.is_file():
        raise MissingAssetError(
            f"verify: endpoint needs {name}/{SAMPLE}, got none: python -m tools.verification_sample {name}"
        )
    return sample
