"""High resolution: ladders of image-to-image rungs, and pictures written by strips."""
