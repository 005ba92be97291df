"""Processes that use one store at the same time, and who starts, kills and freezes them.

    domain   what they write and fold
    notes    what each says of itself, line by line, so that a killed one's acknowledgements are known
    child    the program of a member of the crowd: one runtime, some jobs
    jobs     appending, putting, following, watching
    models   projecting, and reading models
    tallies  the same tallies, as tables in SQL
    trouble  holding the lock files, forking
    options  what a member is told at its start
    driver   starts, kills, freezes and collects members
    tenures  pure: what followers of one name got, from owner to owner
    laws     pure: from notes and the log to violations, each a sentence
    ledger   the same laws, kept up to date while a crowd works
    chaos    what may happen to a crowd, drawn from a seed
"""
