"""Writes the dashboards: python monitoring/grafana/build.py

A panel is a title, a unit and its queries; the places follow from the order.
"""

# ruff: noqa: E501 - a panel is a line
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "prometheus"}
Panel = tuple[str, str, dict[str, str]]  # title, unit, legend -> query


def quantiles(metric: str, by: str = "") -> dict[str, str]:
    """P50, P95 and P99 of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return {
        f"P{round(q * 100)}{legend}": f"histogram_quantile({q}, "
        f"sum by ({labels}) (rate({metric}_bucket[$__rate_interval])))"
        for q in (0.5, 0.95, 0.99)
    }


def rate(metric: str, by: str) -> dict[str, str]:
    """A counter that processes add up, each second."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return {legend: f"sum by ({by}) (rate({metric}[$__rate_interval]))"}


def shared(metric: str, by: str) -> dict[str, str]:
    """A gauge that every API server shows alike."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", ")) if by else metric
    return {legend: f"max by ({by}) ({metric})"}


DASHBOARDS: dict[str, tuple[str, list[Panel]]] = {
    "overview": (
        "InferenceFlow: overview",
        [
            ("Jobs that end", "ops", {"{{state}}": "sum by (state) (max by (priority, state) (rate(inferenceflow_jobs_ended_total[$__rate_interval])))"}),
            ("Jobs without an answer", "percentunit", {"5 m": "inferenceflow:jobs_bad:ratio_rate5m"}),
            ("From acceptance to the answer", "s", quantiles("inferenceflow_request_duration_seconds")),
            ("Waiting jobs", "short", shared("inferenceflow_queue_depth", "priority")),
            ("API requests", "reqps", rate("inferenceflow_http_request_duration_seconds_count", "route, code")),
            ("API latency", "s", quantiles("inferenceflow_http_request_duration_seconds")),
            ("Memory of Redis", "bytes", shared("inferenceflow_redis_memory_used_bytes", "store")),
            ("Readable state", "short", shared("inferenceflow_state_readable", "part")),
        ],
    ),
    "providers": (
        "InferenceFlow: providers and cost",
        [
            ("Calls", "ops", rate("inferenceflow_provider_call_duration_seconds_count", "provider, model")),
            ("Latency of calls", "s", quantiles("inferenceflow_provider_call_duration_seconds", "provider")),
            ("Time to first token", "s", quantiles("inferenceflow_time_to_first_token_seconds", "provider")),
            ("Errors", "ops", rate("inferenceflow_provider_errors_total", "provider, error_type")),
            ("Circuits (0 closed, 2 open)", "short", shared("inferenceflow_breaker_state", "provider, model")),
            ("Cost an hour by model", "currencyUSD", {"{{model}}": "sum by (model) (rate(inferenceflow_cost_dollars_total[$__rate_interval])) * 3600"}),
            ("Cost an hour by tenant", "currencyUSD", {"{{tenant}}": "topk(10, sum by (tenant) (rate(inferenceflow_cost_dollars_total[$__rate_interval])) * 3600)"}),
            ("Tokens", "short", rate("inferenceflow_tokens_total", "model, kind")),
        ],
    ),
    "cache": (
        "InferenceFlow: cache",
        [
            ("Hit rate", "percentunit", {"30 m": "inferenceflow:cache_hit:ratio_rate30m"}),
            ("Lookups", "ops", rate("inferenceflow_cache_lookups_total", "layer, verdict")),
            ("Answers stored", "short", shared("inferenceflow_cache_entries", "")),
            ("What they take", "bytes", shared("inferenceflow_cache_size_bytes", "")),
            ("Latency of cached and other answers", "s", quantiles("inferenceflow_request_duration_seconds", "provider")),
            ("Wrong semantic hits, as far as checked", "percentunit", shared("inferenceflow_cache_error_rate", "pool")),
            ("Least score by pool", "short", shared("inferenceflow_cache_verifier_bar", "pool")),
            ("Answers shared in flight", "ops", rate("inferenceflow_single_flight_joins_total", "outcome")),
        ],
    ),
    "queues": (
        "InferenceFlow: queues and scaler",
        [
            ("Waiting", "short", shared("inferenceflow_queue_depth", "priority")),
            ("Running", "short", shared("inferenceflow_jobs_running", "priority")),
            ("Oldest waiting job", "s", shared("inferenceflow_queue_oldest_seconds", "priority")),
            ("Wait for a worker", "s", quantiles("inferenceflow_queue_wait_seconds", "priority")),
            ("Jobs accepted", "ops", {"{{priority}}": "inferenceflow:jobs_submitted:rate5m"}),
            ("Runs put off", "ops", rate("inferenceflow_worker_deferrals_total", "why")),
            ("Replicas wanted", "short", shared("inferenceflow_scaler_desired_replicas", "queue")),
            ("Arriving work", "short", shared("inferenceflow_scaler_arrival_rate", "queue")),
            ("Forecast, upper quantile", "short", shared("inferenceflow_scaler_forecast_upper", "queue")),
            ("Trust (0 hold to 3 seasonal)", "short", shared("inferenceflow_scaler_level", "queue")),
        ],
    ),
}  # fmt: skip


def panel(number: int, title: str, unit: str, queries: dict[str, str]) -> dict[str, Any]:
    """One graph, two in a row."""
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {"x": 12 * (number % 2), "y": 8 * (number // 2), "w": 12, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + place), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for place, (legend, query) in enumerate(queries.items())
        ],
    }


def dashboard(name: str) -> str:
    """One dashboard as Grafana reads it."""
    title, panels = DASHBOARDS[name]
    body = {
        "uid": f"inferenceflow-{name}",
        "title": title,
        "tags": ["inferenceflow"],
        "timezone": "browser",
        "schemaVersion": 39,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "panels": [panel(number, *one) for number, one in enumerate(panels)],
    }
    return json.dumps(body, indent=1) + "\n"


if __name__ == "__main__":
    for _name in DASHBOARDS:
        (FOLDER / f"{_name}.json").write_text(dashboard(_name))
