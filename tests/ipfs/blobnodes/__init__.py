"""IPFS nodes for the tests: a fake one that can lie, js-ipfs, and Kubo's library."""
