"""Hooks, specs, the manager that loads plugins, and the registry of names. Nothing heavy is imported from here."""
