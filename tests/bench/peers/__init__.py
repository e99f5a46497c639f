"""Speeds beside other packages, and beside loops in our own words where a peer has no package.

`python -m bench.peers --out FILE` writes the table, `make bench-peers` installs the peers first.
"""
