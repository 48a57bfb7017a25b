"""Tests of transfuse.cli."""
