"""Run a scenario of the DHT in virtual time."""

from tests.simulation import clock

clock.install()

from tests.simulation.dht.command import main  # noqa: E402 (the clocks are replaced before the product is imported)

if __name__ == "__main__":
    main()
