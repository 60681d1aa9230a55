"""Imports that must happen before aws_cdk's."""

import tests.synthesis  # noqa: F401 (points jsii to the fast Node)
