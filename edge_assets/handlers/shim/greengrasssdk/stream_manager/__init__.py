"""Stream manager is a component with a client of its own on Greengrass V2."""

raise ImportError(
    "greengrasssdk.stream_manager is not there on Greengrass V2: deploy the component aws.greengrass.StreamManager "
    "(classic nucleus only), add the package stream-manager to the function's requirements.lock and import "
    "stream_manager: its classes have the same names (docs/migration.md)"
)
