#!/usr/bin/env bash
# What splits, copies and moves take and cost; see benches/elastic.rs. Arguments: millions of rows a shard, or `small`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo bench --locked --bench elastic -- "$@"
