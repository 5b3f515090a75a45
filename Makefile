# Every command of this project. On a new Debian 12 machine with Rust and Python 3, each target sets up what it needs
# by itself (scripts/provision.sh), the first time and every time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export CONVERTHOUSE_PROVISION_DIR ?= $(CURDIR)/.provision
export CARGO_NET_RETRY ?= 5
ifdef CI
export CARGO_INCREMENTAL ?= 0
export CARGO_TERM_COLOR ?= never
endif

# Options for `converthouse demo`, such as DEMO_ARGS='--kafka 127.0.0.1:9092' or DEMO_ARGS=--stay.
DEMO_ARGS ?=
# Only the tests whose name contains this.
FILTER ?=
# How many tests of tests/real run at once; each starts servers.
REAL_TEST_THREADS ?= 2
export REAL_TEST_THREADS
# Properties are tried on the same random worlds each time; another number draws others, and `cargo test` by hand new ones.
PROPTEST_RNG_SEED ?= 1
export PROPTEST_RNG_SEED

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## real ClickHouse servers, a million rows; split, join, drain and kill under queries: two minutes
	@scripts/provision.sh rust build server
	@cargo build --locked --bin converthouse
	@TMPDIR="$$(scripts/scratch.sh)" target/debug/converthouse demo $(DEMO_ARGS)

.PHONY: test
test: ## format, lints, and every test, those on real servers too
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" python3 scripts/test_summary.py all $(FILTER)

.PHONY: test-unit
test-unit: ## the tests that need no server
	@scripts/provision.sh rust build
	@python3 scripts/test_summary.py unit $(FILTER)

.PHONY: test-real
test-real: ## the tests on real ClickHouse, etcd, Kafka and Prometheus
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" python3 scripts/test_summary.py real $(FILTER)

.PHONY: fmt
fmt: ## rewrites the sources in the project's format
	@scripts/provision.sh rust >/dev/null
	@cargo fmt

.PHONY: lint
lint: ## format and lints, writes nothing
	@scripts/provision.sh rust build
	@python3 scripts/test_summary.py lint

.PHONY: build
build: ## the program, for development (target/debug/converthouse)
	@scripts/provision.sh rust build
	@cargo build --locked

.PHONY: release
release: ## the program, optimised (target/release/converthouse)
	@scripts/provision.sh rust build
	@cargo build --locked --release

# For `make proof`; CONVERTHOUSE_BINARY=/path/to/converthouse has it run another build of the program.
MINUTES ?= 10
SEED ?= 1
.PHONY: proof
proof: ## real servers under ingest, queries and a nemesis: MINUTES=10 SEED=1
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" CONVERTHOUSE_PROOF_MINUTES=$(MINUTES) CONVERTHOUSE_PROOF_SEED=$(SEED) \
	  cargo test --locked --release --test proof -- --nocapture

.PHONY: bench-ingest
bench-ingest: ## rows/s from Kafka beside the same rows through clickhouse-client
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" scripts/bench.sh ingest

.PHONY: bench-failover
bench-failover: ## time from kill -9 of a daemon to its duties moved, against the lease
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" scripts/bench.sh failover

# Millions of rows a shard for `make bench-elastic`; `small` is a short try.
SIZES ?= 1 10 50
.PHONY: bench-elastic
bench-elastic: ## splits, copies by parts beside cp and select, queries during a move: SIZES="1 10 50"
	@scripts/provision.sh
	@TMPDIR="$$(scripts/scratch.sh)" scripts/bench.sh elastic $(SIZES)

.PHONY: bench-placement
bench-placement: ## the placement engine beside other solvers: BENCH_ARGS='--only 30x1000 --seeds 1,2,3'
	@scripts/provision.sh rust build
	@scripts/bench.sh placement $(BENCH_ARGS)

.PHONY: bench-simulation
bench-simulation: ## virtual seconds a second of 100 nodes with 10 000 replicas, and of 1000 with 100 000, in the simulator
	@scripts/provision.sh rust build
	@scripts/bench.sh simulation

.PHONY: clean-provision
clean-provision: ## removes what provisioning put outside the system's packages
	@scripts/provision.sh --clean
