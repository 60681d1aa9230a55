"""How a model is served: what its own folder says, and what the stage wants otherwise."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.model import Model
from config.names import Names

MODELS = Path(__file__).resolve().parents[1] / "edge_assets" / "models"


def serving(model: Model, names: Names, models: Path = MODELS) -> dict[str, Any]:
    """Read what a model's declaration says under `serving`: keys of the inference component's configuration.

    Args:
        model: As the stage lists it; its own keys win.
        names: Of the stage; `{stage}` in `PublishResultsOnTopic` stands for it, so that stages of one account, whose
            models have the same declarations, do not publish on the same topic.
        models: Where the folders lie.

    Returns:
        The keys; of a folder without a readable declaration only the stage's: the model's own stack complains about it.
    """
    try:
        declaration = json.loads((models / model.folder / "model.json").read_text(encoding="utf-8-sig"))
        found = {"topK": declaration.get("topK", 3), **declaration.get("serving", {}), **model.serving}
    except (OSError, ValueError, AttributeError, TypeError):
        found = dict(model.serving)
    if isinstance(topic := found.get("PublishResultsOnTopic"), str):
        found["PublishResultsOnTopic"] = topic.replace("{stage}", names.stage)
    return found


def result_topics(names: Names, models: Sequence[Model]) -> list[str]:
    """List every topic that the inference component publishes to.

    Args:
        names: Of the stage.
        models: Those that it lists.

    Returns:
        Exact topics, each once: answers, results of files and heartbeats.
    """
    topics = [names.response_topic(model.folder) for model in models]
    topics += [topic for model in models if (topic := serving(model, names).get("PublishResultsOnTopic"))]
    return list(dict.fromkeys([*topics, names.heartbeat_topic]))
