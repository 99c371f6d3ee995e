"""Routes for people: one file, one group. Each has its own ``ROUTES``; control_plane.py puts them together."""
