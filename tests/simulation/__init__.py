"""Many trackers of the product's own classes in virtual time, with faults; `docs/simulation.md` describes it."""
