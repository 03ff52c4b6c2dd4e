"""The version of coinfer: `pyproject.toml`, the command and the servers read it here."""

__version__ = "0.2.0"
