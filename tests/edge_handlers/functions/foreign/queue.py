"""Called like a module of Python itself, as functions of V1 could be."""
