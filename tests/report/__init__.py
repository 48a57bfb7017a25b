"""Tests of transfuse.report."""
