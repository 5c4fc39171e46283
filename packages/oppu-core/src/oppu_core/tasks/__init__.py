"""The tasks of LaMP and LongLaMP as TOML files, and users' own tasks."""
