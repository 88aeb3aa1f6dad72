"""A real server under load, a killed worker, and a comparison of what was sent with what was counted: `make demo`."""
