"""The components on a core device: what their recipes say, their processes, their configurations."""
