"""Run a scenario in virtual time."""

from tests.simulation import clock

clock.install()

from tests.simulation.command import main  # noqa: E402 (the clocks are replaced before the product is imported)

if __name__ == "__main__":
    main()
