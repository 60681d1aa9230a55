"""SageMaker's compilation jobs in memory; a test moves a job on by setting its status."""

from typing import Any

from tests.handlers.fake_service import FakeService, refusal


class FakeSageMaker(FakeService):
    """Compilation jobs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.absent_code = "ResourceNotFound"
        self.absent_message = "Requested resource not found."

    def end(self, name: str, status: str, reason: str = "") -> None:
        """Let a job come to an end."""
        job = self.jobs[name]
        job["CompilationJobStatus"] = status
        job["FailureReason"] = reason
        if status == "COMPLETED":
            folder = job["OutputConfig"]["S3OutputLocation"]
            job["ModelArtifacts"] = {"S3ModelArtifacts": f"{folder}model-LINUX_X86_64.tar.gz"}

    def create_compilation_job(self, **arguments: Any) -> dict[str, Any]:
        self.record("create_compilation_job", **arguments)
        name = arguments["CompilationJobName"]
        if name in self.jobs:
            raise refusal("ResourceInUse", "CreateCompilationJob")
        self.jobs[name] = {**arguments, "CompilationJobStatus": "STARTING"}
        return {"CompilationJobArn": f"arn:aws:sagemaker:eu-west-1:111122223333:compilation-job/{name}"}

    def describe_compilation_job(self, CompilationJobName: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_compilation_job", CompilationJobName=CompilationJobName)
        return dict(self._job(CompilationJobName, "DescribeCompilationJob"))

    def stop_compilation_job(self, CompilationJobName: str) -> dict[str, Any]:  # noqa: N803
        self.record("stop_compilation_job", CompilationJobName=CompilationJobName)
        job = self._job(CompilationJobName, "StopCompilationJob")
        if job["CompilationJobStatus"] not in ("STARTING", "INPROGRESS"):
            raise refusal("ValidationException", "StopCompilationJob", "The job is not running.")
        job["CompilationJobStatus"] = "STOPPING"
        return {}

    def delete_compilation_job(self, CompilationJobName: str) -> dict[str, Any]:  # noqa: N803
        self.record("delete_compilation_job", CompilationJobName=CompilationJobName)
        job = self._job(CompilationJobName, "DeleteCompilationJob")
        if job["CompilationJobStatus"] not in ("COMPLETED", "FAILED", "STOPPED"):
            raise refusal("ValidationException", "DeleteCompilationJob", "The job has not ended.")
        del self.jobs[CompilationJobName]
        return {}

    def _job(self, name: str, operation: str) -> dict[str, Any]:
        if name not in self.jobs:
            raise refusal(self.absent_code, operation, self.absent_message)
        return self.jobs[name]
