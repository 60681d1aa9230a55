"""The client of `greengrasssdk.client("secretsmanager")`: the leanest nucleus keeps no secrets for components."""

from typing import Any


class SecretsManagerError(Exception):
    """A secret that cannot be had."""


class Client:
    """Refuses when it is called, so that a function which only makes it goes on working."""

    def get_secret_value(self, **kwargs: Any) -> Any:
        """Refuse.

        Raises:
            ValueError: SecretId is missing.
            SecretsManagerError: Otherwise.
        """
        if "SecretId" not in kwargs:
            raise ValueError('Parameter "SecretId" is a required parameter but was not provided.')
        raise SecretsManagerError(
            f"get_secret_value(SecretId={kwargs['SecretId']!r}): Greengrass V2 serves no secrets to handler "
            "components; read it with boto3 and the token exchange role (aws_credentials of the handler), or from a "
            "file that was put on the device (docs/migration.md)"
        )
