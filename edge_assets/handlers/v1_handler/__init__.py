"""Runs a Python Lambda function that was written for Greengrass V1, unmodified, as a component of Greengrass V2."""
