"""What IoT Core lacks in MiniStack for a Greengrass device: job namespaces, role aliases, AWS's names and ports."""
