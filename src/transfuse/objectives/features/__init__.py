"""What a teacher's inner features teach."""
