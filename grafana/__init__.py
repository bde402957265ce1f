"""The Grafana dashboards and Prometheus alerts of this project; `generate.py` writes the dashboards."""
