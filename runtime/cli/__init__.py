"""The command line: `run` drives it, `app` lists the commands, a file per group of commands does them."""
