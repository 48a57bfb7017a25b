"""What keeps a student near where its training started."""
