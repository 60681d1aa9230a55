"""Stages of the app: what differs between them, checked before anything is synthesised."""
