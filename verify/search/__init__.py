"""Search with torch: fast, heuristic, and never trusted. What it finds is checked by others."""
