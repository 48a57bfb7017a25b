"""What labels teach."""
