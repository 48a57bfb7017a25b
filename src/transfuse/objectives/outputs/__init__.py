"""What a teacher's outputs teach."""
