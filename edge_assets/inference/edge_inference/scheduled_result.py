"""Messages of predictions that nobody asked for, in the form that SageMaker Edge Manager's sample gave them."""

from edge_inference.answer import PAYLOAD_BYTES, Prediction, encode, now

OWN, EDGE_MANAGER = "edgewright", "edge-manager"
FORMATS = (OWN, EDGE_MANAGER)


def edge_manager(task: str, prediction: Prediction, count: int, threshold: float) -> bytes:
    """Write a result as Edge Manager's sample component published it, with probabilities as numbers.

    Args:
        task: What the model does.
        prediction: What it says.
        count: How many labels were asked for.
        threshold: Labels of a smaller probability are left out.

    Returns:
        JSON of at most 6,000 bytes: timestamp, inference-type, inference-description, inference-results with Label and
        Score; the least probable labels are left out where they do not fit.
    """
    description = f"Top {count} predictions with score {threshold:g} or above"
    if prediction.notice:
        description = f"{description} ({prediction.notice})"
    scores = prediction.above(threshold)
    for kept in range(len(scores), -1, -1):
        payload = encode(
            {
                "timestamp": now(),
                "inference-type": task,
                "inference-description": description,
                "inference-results": [
                    {"Label": score.label, "Score": round(score.probability, 6)} for score in scores[:kept]
                ],
            }
        )
        if len(payload) <= PAYLOAD_BYTES:
            break
    return payload
