"""Training of classifiers: what ``linzoo train`` is made of."""
