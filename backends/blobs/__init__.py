"""Blob stores: large objects by content address, beside a backend. Public names are in `perdure.runtime`."""
