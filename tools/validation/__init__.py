"""Accuracy of classifiers: what ``linzoo validate`` is made of."""
