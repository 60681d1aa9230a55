"""Jobs taken, remembered over restarts and reported."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from twin.core_device.deployment.deployer import Deployer, Outcome
from twin.core_device.deployment.document import DeploymentDocument
from twin.core_device.deployment.jobs import DeploymentWorker, Job, JobQueue

ARN = "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/g:1"
DOCUMENT = {"deploymentId": "d", "configurationArn": ARN, "creationTimestamp": 1, "components": {}}


class Reports:
    """A job queue that notes what it is told."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self.statuses: list[tuple[str, str]] = []
        self.details: list[dict[str, str]] = []

    async def report(self, job_id: str, status: str, details: dict[str, str]) -> bool:
        self.statuses.append((job_id, status))
        self.details.append(details)
        return self.wanted


class Deployments:
    """A deployer that notes what it is given."""

    def __init__(self, outcome: Outcome, *, blocks: bool = False) -> None:
        self.outcome, self.blocks = outcome, blocks
        self.documents: list[DeploymentDocument] = []

    async def run(self, document: DeploymentDocument) -> Outcome:
        self.documents.append(document)
        if self.blocks:
            await asyncio.Event().wait()
        return self.outcome


def work(path: Path, deployments: Deployments, reports: Reports, *jobs: Job) -> None:
    """Offer jobs one after the other to a worker that then is stopped."""

    async def main() -> None:
        worker = DeploymentWorker(path / "job.json", cast(Deployer, deployments), lambda _d, _o: None)
        task = asyncio.create_task(worker.run(cast(JobQueue, reports)))
        for job in jobs:
            worker.offer(job)
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def job(job_id: str = "j", queued_at: int = 10, status: str = "QUEUED", document: Any = DOCUMENT) -> Job:
    return Job(job_id, queued_at, status, document)


def test_reports_progress_and_outcome_with_its_cause(tmp_path: Path) -> None:
    reports = Reports()

    work(tmp_path, Deployments(Outcome("FAILED_ROLLBACK_COMPLETE", "x" * 5000, "KIND")), reports, job())

    assert reports.statuses == [("j", "IN_PROGRESS"), ("j", "FAILED")]
    assert reports.details[1]["detailed-deployment-status"] == "FAILED_ROLLBACK_COMPLETE"
    assert len(reports.details[1]["deployment-failure-cause"]) == 1024


def test_an_interrupted_job_is_taken_up_again(tmp_path: Path) -> None:
    work(tmp_path, Deployments(Outcome("SUCCESSFUL"), blocks=True), Reports(), job())
    deployments, reports = Deployments(Outcome("SUCCESSFUL")), Reports()

    work(tmp_path, deployments, reports, job(status="IN_PROGRESS"))

    assert len(deployments.documents) == 1
    assert reports.statuses[-1] == ("j", "SUCCEEDED")


def test_a_finished_job_that_the_cloud_did_not_hear_of_is_only_reported(tmp_path: Path) -> None:
    work(tmp_path, Deployments(Outcome("SUCCESSFUL")), Reports(), job())
    deployments, reports = Deployments(Outcome("FAILED")), Reports()

    work(tmp_path, deployments, reports, job(status="IN_PROGRESS"))

    assert deployments.documents == []
    assert reports.statuses == [("j", "SUCCEEDED")]


def test_an_older_queueing_of_the_same_job_is_ignored_and_a_newer_one_runs(tmp_path: Path) -> None:
    deployments = Deployments(Outcome("SUCCESSFUL"))

    work(tmp_path, deployments, Reports(), job(), job(queued_at=9), job(queued_at=11))

    assert len(deployments.documents) == 2


def test_a_job_that_is_offered_again_is_reported_again(tmp_path: Path) -> None:
    deployments, reports = Deployments(Outcome("SUCCESSFUL")), Reports()

    work(tmp_path, deployments, reports, job(), job(status="IN_PROGRESS"))

    assert len(deployments.documents) == 1
    assert reports.statuses == [("j", "IN_PROGRESS"), ("j", "SUCCEEDED"), ("j", "SUCCEEDED")]


def test_an_interrupted_job_goes_on_though_the_cloud_takes_no_second_begin(tmp_path: Path) -> None:
    deployments = Deployments(Outcome("SUCCESSFUL"))

    work(tmp_path, deployments, Reports(wanted=False), job(status="IN_PROGRESS"))

    assert len(deployments.documents) == 1


def test_a_cancelled_job_is_not_run(tmp_path: Path) -> None:
    deployments = Deployments(Outcome("SUCCESSFUL"))

    work(tmp_path, deployments, Reports(wanted=False), job())

    assert deployments.documents == []


def test_on_a_full_disk_a_deployment_that_works_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "job.json.new").mkdir()  # no file can be written there
    reports = Reports()

    work(tmp_path, Deployments(Outcome("SUCCESSFUL")), reports, job())

    assert reports.statuses == [("j", "IN_PROGRESS"), ("j", "SUCCEEDED")]


def test_a_malformed_document_fails_the_job_and_the_next_one_runs(tmp_path: Path) -> None:
    deployments, reports = Deployments(Outcome("SUCCESSFUL")), Reports()

    work(tmp_path, deployments, reports, job("bad", document="text"), job("good", 11))

    assert reports.statuses[1] == ("bad", "FAILED")
    assert "must be a JSON object, got str" in reports.details[1]["deployment-failure-cause"]
    assert reports.statuses[-1] == ("good", "SUCCEEDED")
