"""The daemon. `daemon` runs it, `web` is its HTTP side, `config` what it is told. It needs the extra `serve`."""
