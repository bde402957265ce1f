"""`python -m tracker` is the command `peerservers`."""

from tracker.cli import main

main()
