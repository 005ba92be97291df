"""Many tasks, of several runtimes, in several processes, that write to the same streams and keys at the same time.

    race     what a task does, and the history it notes
    racer    the process: runs races when it is asked to
    track    starts racers, lets them run the same race, and judges what they noted together
"""
