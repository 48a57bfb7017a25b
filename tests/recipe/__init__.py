"""Tests of transfuse.recipe."""
