"""Training: settings, the loop for one adapter, task bases, and personal adapters for many users."""
