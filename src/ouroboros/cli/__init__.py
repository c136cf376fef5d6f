"""The command line: one file per verb.

Each file defines NAME, HELP, EXAMPLES, `add_arguments(parser)` and `async run(options, settings, out)`.
"""
