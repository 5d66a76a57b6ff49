"""Training, evaluation and pictures of LiDAR detectors."""
