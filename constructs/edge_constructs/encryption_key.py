"""The KMS keys: of everything that the product stores, and of the signatures of model packages."""

from collections.abc import Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_kms as kms
from constructs import Construct

from edge_constructs.permission import Permission


def kept(retain: bool) -> RemovalPolicy:
    """What becomes of a stateful resource at a destroy.

    Args:
        retain: Whether it stays; then one of a deploy that fails and is rolled back goes all the same: it is empty, and
            a name that stays taken would stop the next deploy.
    """
    return RemovalPolicy.RETAIN_ON_UPDATE_OR_DELETE if retain else RemovalPolicy.DESTROY


class EncryptionKey(Construct):
    """A rotated key that the account's IAM policies alone give access to.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        retain: Whether a destroy keeps the key; otherwise its deletion is scheduled for the shortest time, 7 days.
    """

    def __init__(self, scope: Construct, construct_id: str, *, retain: bool) -> None:
        super().__init__(scope, construct_id)
        self.key = kms.Key(
            self,
            "Resource",
            description="Edgewright's artifacts",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=kept(retain),
        )

    def reading(self) -> Sequence[Permission]:
        """What a role needs to read encrypted objects."""
        return [Permission(actions=("kms:Decrypt",), resources=(self.key.key_arn,))]

    def writing(self) -> Sequence[Permission]:
        """What a role needs to write encrypted objects and read them back."""
        return [Permission(actions=("kms:Decrypt", "kms:GenerateDataKey"), resources=(self.key.key_arn,))]

    def adding(self) -> Sequence[Permission]:
        """What a role needs to write encrypted objects in one piece, and no more."""
        return [Permission(actions=("kms:GenerateDataKey",), resources=(self.key.key_arn,))]


class SigningKey(Construct):
    """An asymmetric key of the curve P-256, which devices can check without calling AWS.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        retain: Whether a destroy keeps the key; otherwise its deletion is scheduled for the shortest time, 7 days.
    """

    def __init__(self, scope: Construct, construct_id: str, *, retain: bool) -> None:
        super().__init__(scope, construct_id)
        self.key = kms.Key(
            self,
            "Resource",
            description="Signs Edgewright's model packages",
            key_spec=kms.KeySpec.ECC_NIST_P256,
            key_usage=kms.KeyUsage.SIGN_VERIFY,
            pending_window=Duration.days(7),
            removal_policy=kept(retain),
        )
        self.arn = self.key.key_arn

    def signing(self) -> Sequence[Permission]:
        """What a role needs to sign, and to tell devices the public half."""
        return [Permission(actions=("kms:Sign", "kms:GetPublicKey"), resources=(self.arn,))]
