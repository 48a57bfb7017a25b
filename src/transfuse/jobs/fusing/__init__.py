"""The parts of a fusion: sources, the panel of what they say, the ways, the student, the end."""
