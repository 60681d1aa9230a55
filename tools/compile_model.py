"""Compiles one model by SageMaker Neo outside a deploy: submits the stack's own job and follows it to its end.

    make setup-sagemaker
    .venv-sagemaker/bin/python -m tools.compile_model digits --stage dev --role ROLE_ARN --bucket BUCKET

The job has the name that the stack would give it, so a deploy that follows finds it done. The SageMaker SDK (version 3,
about 1 GB) has an environment of its own; it is imported when the job is submitted and nowhere else in this app.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import boto3

from config.loader import ConfigurationError, load_stage
from config.names import Names
from config.places import MODELS
from edge_constructs.model_source import ModelDeclarationError, ModelSource
from edge_handlers.custom_resource import Properties
from edge_handlers.neo_compilation import ARCHITECTURES, CompilationJob
from tools.set_up import require

POLL_S = 5.0
ENDED = ("COMPLETED", "FAILED", "STOPPED")


class CompilationFailedError(RuntimeError):
    """The job ended without an artifact, or not in time; the text names it and says why."""


def prepare(stage_name: str, model: str, role: str, bucket: str, max_minutes: int) -> tuple[CompilationJob, bytes]:
    """Describe the job as the stack does.

    Args:
        stage_name: The stage that the model is compiled for.
        model: Folder below edge_assets/models.
        role: ARN of the SageMaker execution role.
        bucket: Takes the source, and the artifact.
        max_minutes: SageMaker stops the job after so long.

    Returns:
        The job, and the source archive that it reads.
    """
    stage, source = load_stage(stage_name), ModelSource.read(MODELS / model)
    with tempfile.TemporaryDirectory() as folder:
        archive, sha256 = source.write_archive(Path(folder))
        content = archive.read_bytes()
    settings = next((entry.neo for entry in stage.models if entry.folder == model), None)
    job = CompilationJob(
        model=model,
        name_prefix=Names(stage_name).compilation_job(model),
        role_arn=role,
        source_uri=f"s3://{bucket}/sources/{model}/{sha256}/{archive.name}",
        output_uri=f"s3://{bucket}/compiled",
        framework=source.declaration["framework"],
        framework_version=source.declaration.get("frameworkVersion"),
        input_shapes=source.input_shapes,
        target_device=settings.device if settings else None,
        target_os="LINUX",
        target_arch=ARCHITECTURES[stage.runtime.architecture],
        target_accelerator=settings.accelerator if settings else None,
        compiler_options=json.dumps(settings.compiler_options) if settings and settings.compiler_options else None,
        max_runtime_s=max_minutes * 60,
    )
    return CompilationJob.of(Properties(job.to_properties(), "job")), content


def submit(job: CompilationJob, content: bytes, region: str, s3: Any) -> Any:
    """Upload the source and create the job by the SDK; one that is there already is followed.

    Returns:
        The SDK's `CompilationJob`.
    """
    from sagemaker.core import resources, shapes  # 1 GB of package: only who submits a job waits for it

    bucket, _, key = job.source_uri.removeprefix("s3://").partition("/")
    s3.put_object(Bucket=bucket, Key=key, Body=content)
    told = job.creation_arguments()
    given, output = told["InputConfig"], told["OutputConfig"]
    platform = output.get("TargetPlatform")
    arguments = {
        "compilation_job_name": job.name,
        "role_arn": job.role_arn,
        "input_config": shapes.InputConfig(
            s3_uri=given["S3Uri"],
            framework=given["Framework"],
            **_some(data_input_config=given.get("DataInputConfig"), framework_version=given.get("FrameworkVersion")),
        ),
        "output_config": shapes.OutputConfig(
            s3_output_location=output["S3OutputLocation"],
            **_some(
                target_device=output.get("TargetDevice"),
                compiler_options=output.get("CompilerOptions"),
                target_platform=shapes.TargetPlatform(
                    os=platform["Os"], arch=platform["Arch"], **_some(accelerator=platform.get("Accelerator"))
                )
                if platform
                else None,
            ),
        ),
        "stopping_condition": shapes.StoppingCondition(max_runtime_in_seconds=job.max_runtime_s),
    }
    try:
        return resources.CompilationJob.create(**arguments, region=region)
    except Exception as exc:
        if "ResourceInUse" not in str(exc):
            raise
        return resources.CompilationJob.get(job.name, region=region)


def follow(job: Any, limit_s: float, on_status: Callable[[str], None]) -> str:
    """Wait for the job's end.

    Args:
        job: The SDK's `CompilationJob`; its own `wait` takes STOPPED for success.
        limit_s: The longest wait.
        on_status: Told each new status.

    Returns:
        S3 URI of the artifact.

    Raises:
        CompilationFailedError: It failed (with SageMaker's reason), was stopped, or is not done in time.
    """
    deadline, seen, name = time.monotonic() + limit_s, "", job.compilation_job_name
    while True:
        job.refresh()
        status = str(job.compilation_job_status)
        if status != seen:
            seen = status
            on_status(status)
        if status == "COMPLETED":
            return str(job.model_artifacts.s3_model_artifacts)
        if status in ENDED:
            reason = job.failure_reason if status == "FAILED" else "it was stopped before it made an artifact"
            raise CompilationFailedError(f"compilation job {name} is {status}: {reason}")
        if time.monotonic() > deadline:
            raise CompilationFailedError(f"compilation job {name} must end within {limit_s:.0f} s, it is {status}")
        time.sleep(POLL_S)


def _some(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile a model and print where the artifact is.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 compiled, 1 with the reason on standard error; 2, at once, where the SDK is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.compile_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="folder below edge_assets/models")
    parser.add_argument("--role", required=True, metavar="ARN", help="of the SageMaker execution role")
    parser.add_argument("--bucket", required=True, help="takes source and artifact")
    parser.add_argument("--stage", default="dev", help="whose devices it is compiled for (default: %(default)s)")
    parser.add_argument("--minutes", type=int, default=30, help="SageMaker stops the job after so long (default: 30)")
    options = parser.parse_args(arguments)
    if options.minutes < 1:
        parser.error(f"--minutes must be at least 1, got {options.minutes}")
    require(parser.prog, "sagemaker", "sagemaker")
    started = time.monotonic()
    try:
        job, content = prepare(options.stage, options.model, options.role, options.bucket, options.minutes)
        region = load_stage(options.stage).region
        print(f"{job.name}: {job.source_uri}")
        submitted = submit(job, content, region, boto3.client("s3", region_name=region))
        uri = follow(
            submitted,
            options.minutes * 60 + 300,
            lambda status: print(f"{time.monotonic() - started:6.1f} s  {status}", flush=True),
        )
    except (CompilationFailedError, ConfigurationError, ModelDeclarationError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 1
    print(uri)
    return 0


if __name__ == "__main__":
    sys.exit(main())
