"""The key that signs model packages."""

from collections.abc import Sequence

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_kms as kms
from constructs import Construct

from edge_constructs.permission import Permission


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
            removal_policy=RemovalPolicy.RETAIN if retain else RemovalPolicy.DESTROY,
        )
        self.arn = self.key.key_arn

    def signing(self) -> Sequence[Permission]:
        """What a role needs to sign, and to tell devices the public half."""
        return [Permission(actions=("kms:Sign", "kms:GetPublicKey"), resources=(self.arn,))]
