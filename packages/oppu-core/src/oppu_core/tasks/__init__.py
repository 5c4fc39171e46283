"""The seven tasks of LaMP as TOML files, and tasks of one's own."""
