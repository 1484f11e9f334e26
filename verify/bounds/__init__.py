"""Bounds of what a network computes over a box: by intervals, and by linear functions."""
