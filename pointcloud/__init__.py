"""LiDAR detectors whose token mixing costs O(N): ScatterFormer and LION, with no extension to compile."""
