"""Benches: yardsticks, scenarios and the runner. Nothing here is installed; run it from the root of a checkout."""
