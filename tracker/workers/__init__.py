"""Several processes of one tracker on one machine, and the supervisor that runs them."""
