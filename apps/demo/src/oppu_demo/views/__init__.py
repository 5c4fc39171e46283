"""What people see, as HTML; no controls."""
