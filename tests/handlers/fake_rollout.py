"""A deployment under way, as Greengrass and IoT Core both tell of it."""

from datetime import UTC, datetime
from typing import Any

from tests.handlers.fake_service import FakeService, refusal

ACCOUNT = "eu-west-1:111122223333"
TARGET = f"arn:aws:iot:{ACCOUNT}:thinggroup/edgewright-dev"


class FakeRollout(FakeService):
    """Core devices of thing groups, deployments to them, and how far each device is; both services in one."""

    PAGES = {  # noqa: RUF012
        "list_core_devices": ("coreDevices",),
        "list_job_executions_for_job": ("executionSummaries",),
        "list_effective_deployments": ("effectiveDeployments",),
        "list_installed_components": ("installedComponents",),
    }

    def __init__(self) -> None:
        super().__init__()
        self.deployments: dict[str, dict[str, Any]] = {}
        self.status: dict[str, str] = {}  # core device → HEALTHY or UNHEALTHY
        self.group: dict[str, str] = {}  # core device → thing group's ARN
        self.executions: dict[str, dict[str, str]] = {}  # core device → deployment → status
        self.offered = datetime.now(UTC)  # when devices were told of their deployments
        self.causes: dict[str, str] = {}
        self.broken: dict[str, tuple[str, str]] = {}

    def deploy(self, deployment: str, target: str) -> None:
        """Make it the latest of its target."""
        for other in self.deployments.values():
            other["isLatestForTarget"] = other["isLatestForTarget"] and other["targetArn"] != target
        self.deployments[deployment] = {
            "deploymentId": deployment,
            "targetArn": target,
            "iotJobId": f"job-{deployment}",
            "isLatestForTarget": True,
            "creationTimestamp": len(self.deployments),
            "deploymentStatus": "ACTIVE",
            "components": {"edgewright.dev.Inference": {"componentVersion": "1.0.3"}},
        }

    def create_deployment(self, targetArn: str, clientToken: str, **content: Any) -> dict[str, Any]:  # noqa: N803
        self.record("create_deployment", targetArn=targetArn, clientToken=clientToken, **content)
        if clientToken not in self.deployments:
            self.deploy(clientToken, targetArn)
            self.deployments[clientToken].update(content)
        return {"deploymentId": clientToken}

    def device(
        self, name: str, target: str, execution: str | None, *, of: str = "new", status: str = "HEALTHY"
    ) -> None:
        """A core device of a group, and how far it is with a deployment."""
        self.status[name], self.group[name] = status, target
        self.executions.setdefault(name, {}).update({of: execution} if execution else {})

    def get_deployment(self, deploymentId: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_deployment", deploymentId=deploymentId)
        if deploymentId not in self.deployments:
            raise refusal("ResourceNotFoundException", "GetDeployment")
        return self.deployments[deploymentId]

    def list_core_devices(self, thingGroupArn: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_core_devices", thingGroupArn=thingGroupArn)
        names = [name for name, group in self.group.items() if group == thingGroupArn]
        return {"coreDevices": [{"coreDeviceThingName": name, "status": self.status[name]} for name in names]}

    def list_job_executions_for_job(self, jobId: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_job_executions_for_job", jobId=jobId)
        deployment = jobId.removeprefix("job-")
        return {
            "executionSummaries": [
                {
                    "thingArn": f"arn:aws:iot:{ACCOUNT}:thing/{name}",
                    "jobExecutionSummary": {"status": of[deployment], "queuedAt": self.offered},
                }
                for name, of in self.executions.items()
                if deployment in of
            ]
        }

    def list_effective_deployments(self, coreDeviceThingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_effective_deployments", coreDeviceThingName=coreDeviceThingName)
        return {
            "effectiveDeployments": [
                {
                    "deploymentId": deployment,
                    "coreDeviceExecutionStatus": status,
                    "reason": "FAILED_ROLLBACK_COMPLETE",
                    "statusDetails": {"errorStack": ["DEPLOYMENT_FAILURE", "COMPONENT_BROKEN"]},
                }
                for deployment, status in self.executions[coreDeviceThingName].items()
            ]
        }

    def list_installed_components(self, coreDeviceThingName: str, topologyFilter: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_installed_components", coreDeviceThingName=coreDeviceThingName)
        name, state = self.broken.get(coreDeviceThingName, ("edgewright.dev.Runtime", "RUNNING"))
        return {"installedComponents": [{"componentName": name, "componentVersion": "1.0.3", "lifecycleState": state}]}

    def describe_job_execution(self, jobId: str, thingName: str) -> dict[str, Any]:  # noqa: N803
        self.record("describe_job_execution", jobId=jobId, thingName=thingName)
        cause = self.causes.get(thingName)
        details = {"detailsMap": {"deployment-failure-cause": cause}} if cause else {}
        return {"execution": {"statusDetails": details}}
