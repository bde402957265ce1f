"""The extension `federation`: links to other trackers, and offers and answers that pass over them."""
