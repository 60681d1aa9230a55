"""The stage's models: each from its source to the package that devices download, by functions that serve them all."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aws_cdk import aws_ssm as ssm
from constructs import Construct

from config.model import Model
from config.places import MODELS, SOURCES
from config.stage import Stage
from edge_constructs.component_library import component_version, content_digest
from edge_constructs.edge_assets import MODEL_RECIPE, MissingAssetError, compiler_archive
from edge_constructs.model_package import (
    NEO_VERSIONS,
    ModelPackage,
    ModelPackager,
    ModelVerifier,
    OnnxCompiler,
    neo_image,
    triton_image,
)
from edge_constructs.model_runtime import check_model, device_runtime
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_constructs.neo_compilation import CompilationLimits, CompilationTarget, EdgePackager, NeoCompiler
from edge_constructs.reproducible_zip import check_member, sha256_of
from stacks.device_stacks import IdentityStack
from stacks.stage_stack import StageStack, StorageStack, build_folder

SAMPLE = "verification.json"
#: Part of every model's version: a package of another form, or at another place, needs another one.
_PACKAGE_FORM = "signed-2"


@dataclass(frozen=True)
class PackagedModel:
    """What becomes of one model.

    Attributes:
        name: The model's.
        version: Of its component.
        recipe_values: What its recipe's placeholders stand for, all but VERSION and ARTIFACT_URI.
        package: Where it lies.
    """

    name: str
    version: str
    recipe_values: dict[str, Any]
    package: ModelPackage


class ModelsStack(StageStack):
    """Publishes, compiles and packages the stage's models; one more brings no function and no role.

    Args:
        scope: The app.
        construct_id: Id below it.
        stage: The stage's configuration.
        storage: Where their files go.
        identity: The role that compiles them.

    Attributes:
        models: In the stage's order.

    Raises:
        ModelDeclarationError: A model's folder cannot be used, or the devices' runtime cannot load the model.
        CompilationError: SageMaker would refuse a compilation job.
        MissingAssetError: Set-up has not made the wheels that `compiler = "onnxruntime"` runs, or there is no sample.
        StrangerError: The sample is a link that leads out of the assets.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, stage: Stage, storage: StorageStack, identity: IdentityStack
    ) -> None:
        super().__init__(
            scope, construct_id, stage=stage, kind="models", description="Edgewright: models and their packages"
        )
        self._stage, self._storage, self._role_arn = stage, storage, identity.compiler.role_arn
        self._key_arn = storage.key.key.key_arn
        self._release = device_runtime(accelerator=stage.runtime.accelerator)
        self._packager = ModelPackager(
            self, "Packager", bucket=storage.artifacts, key_arn=self._key_arn, signing_key=storage.signing_key
        )
        self.models = [self._model(model) for model in stage.models]
        # An export that another stack imports could never change again; a parameter can.
        ssm.CfnParameter(
            self,
            "SigningKey",
            name=self.names.signing_key_parameter,
            type="String",
            value=self.models[0].package.public_key,
        )
        self.needs(storage, identity)

    def _model(self, model: Model) -> PackagedModel:
        name = model.folder
        scope = Construct(self, self.names.model_package(name))
        source = ModelSource.read(MODELS / name)
        accelerator = str(model.serving.get("accelerator", self._stage.runtime.accelerator))
        check_model(source, self._release, accelerator)
        archive, sha256 = source.write_archive(build_folder(self))
        values = {
            "COMPONENT": self.names.model_component(name),
            "MODEL": name,
            "PACKAGE": self.names.model_package(name),
            "NUCLEUS": self._stage.recipe_runtime,
        }
        source_uri = self._storage.store.publish(scope, "Source", file=archive, sha256=sha256, prefix=f"sources/{name}")
        compiled_uri, *compiler = {
            "neo": self._compile_by_neo,
            "onnxruntime": self._compile_by_onnx_runtime,
            "none": self._leave_as_it_is,
        }[model.compiler](scope, model, source, source_uri)
        manifest = {**source.declaration, "compiler": model.compiler, **self._provenance()}
        # The package's own digest is known only after the compilation: all that it follows from stands for it.
        content = [sha256, *compiler, repr(manifest), _PACKAGE_FORM, *self._stage.version_parts]
        version = component_version(MODEL_RECIPE, values, content)
        package = self._packager.pack(
            scope,
            "Package",
            model=name,
            package=self.names.model_package(name),
            version=version,
            content=content_digest(version, *content),
            job=self.names.compilation_job(name),
            compiled_uri=compiled_uri,
            source_uri=source_uri,
            manifest=manifest,
        )
        if model.verify == "endpoint":
            package.node.add_dependency(self._verify(scope, model, source, compiled_uri or source_uri))
        return PackagedModel(name, version, values, package)

    @cached_property
    def _neo(self) -> NeoCompiler:
        return NeoCompiler(
            self,
            "Neo",
            jobs=self.names.prefix,
            role_arn=self._role_arn,
            output_uri=f"s3://{self._storage.artifacts.name}/compiled",
            key_arn=self._key_arn,
            max_runtime_minutes=max(each.neo.max_runtime_minutes for each in self._stage.models),
        )

    @cached_property
    def _edge_manager(self) -> EdgePackager:
        return EdgePackager(
            self,
            "EdgeManager",
            jobs=self.names.prefix,
            role_arn=self._role_arn,
            output_uri=f"s3://{self._storage.artifacts.name}/compiled/edge-manager",
            key_arn=self._key_arn,
        )

    @cached_property
    def _onnx_runtime(self) -> tuple[OnnxCompiler, str]:
        """The compiler, and the digest of what it compiles by."""
        runtime = self._stage.runtime
        archive = compiler_archive(runtime.python, runtime.architecture, build_folder(self))
        compiler = OnnxCompiler(
            self,
            "OnnxRuntime",
            bucket=self._storage.artifacts,
            runtime_uri=self._storage.store.publish(
                self, "Runtime", file=archive.file, sha256=archive.sha256, prefix="artifacts"
            ),
            python=runtime.python,
            architecture=runtime.architecture,
            key_arn=self._key_arn,
        )
        return compiler, archive.sha256

    @cached_property
    def _verifier(self) -> ModelVerifier:
        return ModelVerifier(
            self,
            "Verifier",
            bucket=self._storage.artifacts,
            endpoints=self.names.prefix,
            role_arn=self._role_arn,
            key_arn=self._key_arn,
        )

    def _compile_by_neo(self, scope: Construct, model: Model, source: ModelSource, source_uri: str) -> tuple[str, ...]:
        """The artifact's URI, and what decides it besides the source."""
        neo, compiled = model.neo, source.compiled_from()
        if compiled is not None:
            archive, sha256 = compiled.write_archive(build_folder(self))
            prefix = f"sources/{source.name}"
            source_uri = self._storage.store.publish(
                scope, "CompilationSource", file=archive, sha256=sha256, prefix=prefix
            )
        declaration = (compiled or source).declaration
        target = CompilationTarget(
            framework=declaration["framework"],
            framework_version=_framework_version(declaration),
            input_shapes=(compiled or source).input_shapes,
            architecture=self._stage.runtime.architecture,
            device=neo.device,
            accelerator=neo.accelerator,
            compiler_options=neo.compiler_options,
        )
        compilation = self._neo.compile(
            scope,
            "Compilation",
            model=source.name,
            job=self.names.compilation_job(source.name),
            source_uri=source_uri,
            target=target,
            limits=CompilationLimits(neo.max_runtime_minutes, neo.subnets, neo.security_groups),
        )
        decided = (repr(target), sha256) if compiled is not None else (repr(target),)
        if model.packager == "own":
            return compilation.get_att_string("ArtifactUri"), *decided
        packed = self._edge_manager.pack(
            scope,
            "EdgePackaging",
            job=self.names.compilation_job(source.name),
            compilation_job=compilation.get_att_string("JobName"),
            model=source.name,
            version="1.0",
        )
        return packed, *decided, model.packager

    def _compile_by_onnx_runtime(
        self, scope: Construct, _model: Model, source: ModelSource, source_uri: str
    ) -> tuple[str, ...]:
        compiler, digest = self._onnx_runtime
        artifact_uri = compiler.compile(
            scope,
            "Compilation",
            model=source.name,
            job=self.names.compilation_job(source.name),
            source_uri=source_uri,
            input_shapes=source.input_shapes,
        )
        return artifact_uri, digest

    def _leave_as_it_is(self, *_arguments: Any) -> tuple[str, ...]:
        return ("",)

    def _verify(self, scope: Construct, model: Model, source: ModelSource, model_uri: str) -> Construct:
        settings, name = model.verification, model.folder
        region, framework = self._stage.region, ""
        if model.compiler == "neo":
            compiled = source.compiled_from()
            if compiled is None:
                raise ModelDeclarationError(
                    f"{name}: verify endpoint serves what neo made by Neo's own image, and there is none for ONNX: "
                    "declare a compilation source (framework PYTORCH) in model.json, or set compiler to onnxruntime "
                    "or none, or verify to none"
                )
            framework = compiled.declaration["framework"]
            image = settings.image or neo_image(framework, _framework_version(compiled.declaration), region)
        else:
            image = settings.image or triton_image(region)
        sample = sample_file(MODELS / name)
        sha256 = sha256_of(sample)
        copy = build_folder(self) / sha256 / SAMPLE
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sample, copy)
        return self._verifier.verify(
            scope,
            "Verification",
            name=self.names.compilation_job(name),
            model=name,
            model_uri=model_uri,
            sample_uri=self._storage.store.publish(scope, "Sample", file=copy, sha256=sha256, prefix=f"sources/{name}"),
            image=image,
            framework=framework,
            instance_type=settings.instance_type,
            tolerance=settings.tolerance,
        )

    def _provenance(self) -> dict[str, str]:
        """The commit that a pipeline builds from, where it says so: then each commit makes a new version."""
        commit = self.node.try_get_context("source_commit")
        return {"sourceCommit": commit} if commit else {}


def _framework_version(declaration: dict[str, Any]) -> str:
    """What the declaration says; of a framework that Neo serves, without a word, its newest."""
    default = NEO_VERSIONS.get(declaration["framework"], ("",))[-1]
    return str(declaration.get("frameworkVersion", default))


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
        check_member(sample, folder, SOURCES)
    if not sample.is_file():
        raise MissingAssetError(
            f"verify: endpoint needs {name}/{SAMPLE}, got none: python -m tools.verification_sample {name}"
        )
    return sample
