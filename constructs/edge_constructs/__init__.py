"""The app's own constructs: each defines the resources of one capability."""
