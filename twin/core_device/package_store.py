"""The package folders, rid of what no component uses."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from .files import Layout


def remove_unused(layout: Layout, versions: Mapping[str, str]) -> None:
    """Remove recipes and artifacts of every version that is not on the device.

    Args:
        layout: The device's folders.
        versions: Version by name of the components to keep.
    """
    kept = {layout.recipe(name, version) for name, version in versions.items()}
    for recipe in layout.recipe("any", "0").parent.glob("*.json"):
        if recipe not in kept:
            recipe.unlink(missing_ok=True)
    for folder_of in (layout.artifacts, layout.unarchived):
        folders = {folder_of(name, version) for name, version in versions.items()}
        for component in folder_of("any", "0").parent.parent.glob("*"):
            for version_folder in component.glob("*"):
                if version_folder not in folders:
                    shutil.rmtree(version_folder, ignore_errors=True)
            if not any(component.iterdir()):
                component.rmdir()
