"""Every fault on purpose: rows of faults, each counted, in one table. `rows` has them, one module a kind of fault."""
