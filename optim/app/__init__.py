"""The application: command line, composition of the configuration, and one file per command."""
