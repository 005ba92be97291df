"""The same log, folded in different worlds: hash seeds, time zones, locales, page sizes, restarts. The bytes must be the same.

    domain   events and states of all kinds of values
    folder   the process: runs the projections over a store in its world, and dumps what is kept
"""
