"""Tests of transfuse.evaluate."""
