"""Where AWS has what not every region has, as CloudFormation's own resource schemas say (cfn-lint 1.58)."""

#: AWS::GreengrassV2::ComponentVersion and ::Deployment.
GREENGRASS = (
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "cn-north-1",
    "eu-central-1",
    "eu-west-1",
    "eu-west-2",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-2",
)

#: Regions with SageMaker Edge Manager's resource types (CloudFormation's registry, November 2026).
EDGE_MANAGER = ("ap-northeast-1", "eu-central-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2")
