"""A process that appends, retains, sweeps and compacts; and what must be so whenever it was killed."""
