"""The extension `tokens`: peers join with signed tokens that expire."""
