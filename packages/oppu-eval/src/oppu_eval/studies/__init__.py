"""The paper's further experiments: `oppu study NAME` (docs/studies.md)."""
