"""Rules and what they find."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_rules.fleet_view import FleetView, Resource
from nucleus_lite import Fact

#: Every rule's id starts with it, as those of the packs of cdk-nag do.
PREFIX = "Edge-"


@dataclass(frozen=True)
class Finding:
    """One break of a rule.

    Attributes:
        resource: Where.
        location: Path below the resource, such as `Properties/InlineRecipe`.
        value: What is there; shown to the user.
    """

    resource: Resource
    location: str
    value: str


Check = Callable[[FleetView], Iterator[Finding]]


@dataclass(frozen=True)
class Rule:
    """Something that must hold before a change may reach devices.

    Attributes:
        id: `Edge-` and a name; stable, since acknowledgements refer to it.
        says: The rule in one sentence.
        reason: What happens on a device or in the cloud otherwise.
        fix: What to do.
        source: Where it is to be read or was seen, for a rule that comes from a nucleus.
        check: Finds the breaks of it.
    """

    id: str
    says: str
    reason: str
    fix: str
    source: str
    check: Check


RULES: dict[str, Rule] = {}


def rule(
    name: str, says: str, *, reason: str, fix: str, source: str = "", fact: Fact | None = None
) -> Callable[[Check], Check]:
    """Register a function as the check of a rule.

    Args:
        name: The id without its prefix.
        says: See `Rule`.
        reason: See `Rule`.
        fix: See `Rule`.
        source: See `Rule`; that of the fact, or nothing, by default.
        fact: What of nucleus lite the rule is about.

    Raises:
        ValueError: Another rule has the name.
    """

    def register(check: Check) -> Check:
        if PREFIX + name in RULES:
            raise ValueError(f"a rule's name must be its own, got {name} twice")
        RULES[PREFIX + name] = Rule(PREFIX + name, says, reason, fix, source or (fact.source if fact else ""), check)
        return check

    return register
