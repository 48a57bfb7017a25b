"""Steppers: what one training step computes. New training behaviour is a new stepper, not a flag of an old one."""
