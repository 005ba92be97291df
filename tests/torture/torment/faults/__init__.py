"""One module for each kind of fault, with its rows as `ROWS`."""
