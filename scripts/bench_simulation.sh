#!/usr/bin/env bash
# How fast the simulator is; see benches/simulation.rs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench simulation -- "$@"
