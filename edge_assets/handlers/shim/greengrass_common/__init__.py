"""A package of the Greengrass V1 core, which no V2 device has."""

raise ImportError(
    "greengrass_common was the names of V1's core: "
    "read AWS_IOT_THING_NAME, AWS_REGION and MY_FUNCTION_ARN from os.environ (docs/migration.md)"
)
