"""Measuring what was transferred: metrics, agreement, cost, statistics."""
