"""What runs counted in optimizer updates share: the items of an update, the folder, the log, accelerate."""
