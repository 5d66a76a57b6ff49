"""What runs counted in optimizer updates share: settings, items of an update, folder, log, accelerate."""
