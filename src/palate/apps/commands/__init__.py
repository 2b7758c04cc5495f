"""One file a command: a module here with `register(app)` is found by the command line, nothing else is edited.

Modules import only typer and the standard library at the top, so that `palate --help` stays quick.
"""
