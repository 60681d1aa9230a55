"""What a recipe says of the components that its component needs."""

from collections.abc import Iterable

#: Part of every nucleus; a component that depends on it is given the device's credentials.
TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
_ANY_VERSION = ">=1.0.0 <2.0.0"


def soft_dependencies(components: Iterable[str], *, credentials: bool) -> dict[str, dict[str, str]]:
    """Write ComponentDependencies; SOFT ones, because nucleus lite ends a component with its HARD ones.

    Args:
        components: Of this app.
        credentials: Whether the component needs the token exchange role.

    Returns:
        Component to version range and kind.
    """
    ranges = dict.fromkeys(components, _ANY_VERSION) | ({TOKEN_EXCHANGE: ">=2.0.0 <3.0.0"} if credentials else {})
    return {name: {"VersionRequirement": versions, "DependencyType": "SOFT"} for name, versions in ranges.items()}
