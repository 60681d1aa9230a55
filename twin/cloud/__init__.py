"""The cloud side of the twin: MiniStack, extended in process with what the stacks use and it lacks."""
