"""Frames of LiDAR points with labels: data sets read from folders, and scenes that are drawn."""
