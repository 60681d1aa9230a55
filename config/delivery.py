"""What a stage's file may say of the way a change takes to it."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import StringConstraints

from config.section import Section


class Announced(Section):
    """What `make plan` may find without failing: the reviewers of this file have agreed to it.

    Attributes:
        removals: Components that devices uninstall, targets that lose their deployment, and stacks that are no longer
            the stage's and stay behind, by name.
        replacements: Resources that are deleted or made anew, as the plan names them: `Stack/LogicalId`.
        leaving: Devices that the registry takes away, by thing name.
        moving: Devices that change their ring, by thing name.

    A `*` in a name stands for any characters.
    """

    removals: tuple[str, ...] = ()
    replacements: tuple[str, ...] = ()
    leaving: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()

    @staticmethod
    def has(name: str, announced: Iterable[str]) -> bool:
        """Whether a name is among the announced ones."""
        return any(fnmatchcase(name, each) for each in announced)


class Pipeline(Section):
    """A CodePipeline in the stage's account that checks and deploys the stage; leave the table out for none.

    Attributes:
        connection_arn: A connection to the Git host, made in the console and confirmed there by a person.
        repository: `owner/name` at the Git host.
        branch: What is deployed when it changes.
        approval: Whether a person must agree between the checks and the deploy.
    """

    connection_arn: Annotated[
        str,
        StringConstraints(
            pattern=r"^arn:aws[a-z-]*:(codeconnections|codestar-connections):[a-z0-9-]+:\d{12}:connection/[a-f0-9-]{36}$"
        ),
    ]
    repository: Annotated[str, StringConstraints(pattern=r"^[\w.-]+(/[\w.-]+)+$", max_length=256)]
    branch: Annotated[str, StringConstraints(pattern=r"^[\w./-]+$", max_length=255)] = "main"
    approval: bool = True


class Bootstrap(Section):
    """How `cdk bootstrap` prepared the account; the qualifier is CDK's own setting (cdk.json).

    Attributes:
        customer_key: Whether with `--bootstrap-customer-key`: then its assets need that key to be read.
    """

    customer_key: bool = False
