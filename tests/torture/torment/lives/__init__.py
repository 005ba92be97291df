"""Lives of a program that writes all kinds of things to a store and is ended in the middle of it.

    domain   what it writes and folds
    work     what it does all the time, and how it tells what was acknowledged
    child    its process: forks a life whenever it is asked for one
    mother   starts such a process, begins and ends lives in it
    told     what was acknowledged, by all lives so far
    boots    pretends that the machine was started anew
    check    holds a store against what was told
"""
