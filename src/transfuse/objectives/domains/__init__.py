"""What makes a student see two data distributions as one."""
