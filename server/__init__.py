"""The coordinator: fleet gateway, rounds, releases, command line."""
