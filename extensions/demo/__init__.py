"""`peerservers demo`: three linked trackers, and a page on which a file travels between them."""
