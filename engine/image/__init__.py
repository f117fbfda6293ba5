"""Images: names, pull, archives, inspection, removal."""
