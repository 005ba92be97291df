"""One file for each peer, all of one shape: how it is opened, then its cases in the order of the rows."""
