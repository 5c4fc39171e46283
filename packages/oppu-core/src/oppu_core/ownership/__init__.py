"""What people can do with their adapters: train, inspect, export, share, import, forget."""
