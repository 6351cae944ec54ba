"""The command `invalidator`: one thin module a command, which parses, calls and prints."""
