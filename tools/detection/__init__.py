"""What the three detection commands share: configs, what is checked before anything runs, the runner."""
