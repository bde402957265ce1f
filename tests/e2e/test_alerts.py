"""The configuration of Prometheus and the alert rules, tested with promtool."""

from tests.e2e.prometheus import ALERTS, ALERTS_TEST, CONFIG, promtool


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", CONFIG)
    promtool("check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", ALERTS_TEST)
