"""The DHT of the simulation: a model of storing nodes, and an emulation of the mainline DHT at the wire."""
