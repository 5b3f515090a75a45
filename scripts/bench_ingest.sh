#!/usr/bin/env bash
# Ingest of one node beside clickhouse-client; see benches/ingest.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench ingest
