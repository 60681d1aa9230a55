"""The gRPC service of the SageMaker Edge Manager agent, served beside the MQTT topics by the same process.

Only a device whose stage asks for it has this package and the wheels that it needs.
"""
