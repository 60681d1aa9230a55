"""Lambda code of the custom resources: standard library and boto3 only, never aws_cdk."""
