"""Where the services are that a stage needs, as CloudFormation's own resource schemas say (cfn-lint 1.58)."""

#: AWS::GreengrassV2::ComponentVersion and ::Deployment.
GREENGRASS_REGIONS = (
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
