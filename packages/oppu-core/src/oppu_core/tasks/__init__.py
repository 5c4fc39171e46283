"""The seven tasks of LaMP as TOML files, and users' own tasks."""
