"""What is measured is measured right."""
