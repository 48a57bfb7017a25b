"""Teachers that answer live, from a table, or from what they said before."""
