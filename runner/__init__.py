"""Start and end real gunicorn and uWSGI servers: for the demo, the tests and the benchmarks."""
