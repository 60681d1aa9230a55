"""EC2 instances as CloudFormation resources; MiniStack has the API and the rest of EC2."""

from twin.cloud.ec2.cloudformation import install

__all__ = ["install"]
