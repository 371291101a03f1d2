"""The command line: `numbacnn`. Each command is a module of its own, imported when it is asked for."""
