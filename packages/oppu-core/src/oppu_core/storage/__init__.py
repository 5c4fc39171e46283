"""Files that are written whole, and the store of trained weights by content."""
