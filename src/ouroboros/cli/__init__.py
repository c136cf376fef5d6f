"""The command line: one file per verb.

Each has NAME, HELP, EXAMPLES, `add_arguments(parser)` and `async run(options, settings, out)`.
"""
