"""The ``oppu`` command: commands parse, call and print."""
