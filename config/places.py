"""Where things lie: in a checkout all of it in the checkout, else in the installed package and the user's project.

What is installed is never written: what is fetched, and what a user writes, lies in the project.
"""

import os
from collections.abc import Mapping
from pathlib import Path

#: The checkout, or the package `edgewright` of an installed wheel.
PACKAGE = Path(__file__).resolve().parents[1]
#: Only a checkout has it.
INSTALLED = not (PACKAGE / "pyproject.toml").is_file()
#: What a process needs on its PYTHONPATH, or as its folder, to import what this module belongs to.
IMPORTS = PACKAGE.parent if INSTALLED else PACKAGE
#: All that ships to devices, and with it the checkout's own models and functions.
ASSETS = PACKAGE / "edge_assets"
_APP = "cdk.json"


def project_folder(environment: Mapping[str, str], current: Path) -> Path:
    """Find the folder of a user's app, as the CDK's command line does, also from a folder below it.

    Args:
        environment: `EDGEWRIGHT_PROJECT` names the folder, if it is another one.
        current: The folder to start from.

    Returns:
        The nearest folder with a `cdk.json`; where there is none the current one.

    Raises:
        ValueError: `EDGEWRIGHT_PROJECT` is no folder.
    """
    if named := environment.get("EDGEWRIGHT_PROJECT"):
        if not Path(named).is_dir():
            raise ValueError(f"EDGEWRIGHT_PROJECT must be the folder of an app, got {named}: there is no such folder")
        return Path(named).resolve()
    current = current.resolve()
    return next((folder for folder in (current, *current.parents) if (folder / _APP).is_file()), current)


PROJECT = project_folder(os.environ, Path.cwd()) if INSTALLED else PACKAGE
_MADE = PROJECT / ".edgewright"
#: One file a stage.
STAGES = PROJECT / "config"
#: Links of what a user writes may lead to anywhere in it, and no further.
SOURCES = PROJECT if INSTALLED else ASSETS
#: One folder a model.
MODELS = SOURCES / "models"
#: One folder a function of Greengrass V1.
FUNCTIONS = PROJECT / "functions" if INSTALLED else ASSETS / "handlers" / "functions"
#: What set-up fetches for devices: wheels of the runtime, packages of functions.
WHEELHOUSE = _MADE / "wheelhouse" if INSTALLED else ASSETS / "runtime" / "wheelhouse"
BUNDLES = _MADE / "bundles" if INSTALLED else ASSETS / "handlers" / "bundles"
#: The CDK's command line, the AWS clients of its functions, and what the live page is made of.
NODE_MODULES = PROJECT / "node_modules"
