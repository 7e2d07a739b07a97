"""How good a critic is: metrics, bootstrap, tests, calibration, ranking, and the report."""
