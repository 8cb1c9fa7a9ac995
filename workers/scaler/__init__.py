"""The predictive scaler: forecasts the load of every queue and sizes its workers beforehand."""

from tasks.scaler_metrics import get_scaling_metrics
from workers.scaler.capacity import calculate_required_capacity
from workers.scaler.forecast import predict_traffic
from workers.scaler.kubernetes import scale_infrastructure
from workers.scaler.tick import run_tick

__all__ = [
    "calculate_required_capacity",
    "get_scaling_metrics",
    "predict_traffic",
    "run_tick",
    "scale_infrastructure",
]
