"""Fusion: rules that make one model out of several, of their outputs, of their features or of their weights; one file = one rule.

Each folder is a registry of its own (`transfuse.fusion.weights.get("ties")`), since some rules have the same name in several of them.
"""
