"""The predictive scaler: forecasts the load of every queue and sizes its workers beforehand."""
