"""What people can do with the adapters made of their histories: look, take along, share, bring back."""
