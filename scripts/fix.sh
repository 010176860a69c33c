#!/usr/bin/env bash
# Rewrites what the gate would complain about and a machine can mend.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh
quarry_build_setup
cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
cargo fmt --all
