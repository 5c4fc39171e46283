"""What is wrong with a dataset, found before it is trained on."""
