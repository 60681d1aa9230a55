"""The Greengrass V2 cloud: components, deployments, core devices, the device's data plane, CloudFormation types."""
