"""Slow, independent float64 loops, written from the papers, against which objectives are proved."""
