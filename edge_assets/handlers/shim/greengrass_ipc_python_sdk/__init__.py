"""A package of the Greengrass V1 core, which no V2 device has."""

raise ImportError(
    "greengrass_ipc_python_sdk was the inner side of V1's core: "
    'publish by greengrasssdk.client("iot-data") (docs/migration.md)'
)
