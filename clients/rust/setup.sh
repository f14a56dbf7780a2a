#!/usr/bin/env bash
# Builds the crate, its tests and its examples. Needs cargo, 1.88 or newer.
set -eu -o pipefail
cd "$(dirname "$0")"
if ! command -v cargo >/dev/null; then
	echo "cargo is missing: install Rust 1.88 or newer (https://rustup.rs)"
	exit 75
fi
if ! cargo fetch --locked --quiet 2>target-fetch.log; then
	cat target-fetch.log >&2
	rm -f target-fetch.log
	echo "the crates of Cargo.lock could not be fetched from the crates.io registry"
	exit 75
fi
rm -f target-fetch.log
cargo build --locked --offline --quiet --examples
cargo test --locked --offline --quiet --no-run
