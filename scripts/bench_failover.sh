#!/usr/bin/env bash
# Failover times against the lease; see benches/failover.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench failover
