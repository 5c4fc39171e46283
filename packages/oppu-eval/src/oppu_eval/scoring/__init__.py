"""Metrics, reference rows and significance: what answers are worth."""
