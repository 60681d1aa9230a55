"""Where AWS has what not every region has."""

#: Regions with SageMaker Edge Manager's resource types (CloudFormation's registry, November 2026).
EDGE_MANAGER = ("ap-northeast-1", "eu-central-1", "eu-west-1", "us-east-1", "us-east-2", "us-west-2")
