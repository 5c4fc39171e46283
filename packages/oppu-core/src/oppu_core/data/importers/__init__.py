"""From files as people have them to a dataset."""
