"""The verbs for Python."""
