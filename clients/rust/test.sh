#!/usr/bin/env bash
# All tests of the crate. The last line is: N passed, N failed, N skipped
# Those that need a meshnode run where Go is there to build one.
set -u -o pipefail
cd "$(dirname "$0")" || exit 1
ignored=()
if command -v go >/dev/null && go build -C ../.. -o clients/rust/target/meshnode ./cmd/meshnode; then
	export MESHNODE=$PWD/target/meshnode
	ignored=(--include-ignored)
fi
cargo test --locked --quiet --no-fail-fast -- "${ignored[@]}" 2>&1 | tee target/test.log
rc=$?
awk '/^test result:/ { gsub(";", ""); p += $4; f += $6; s += $8 }
	END { if ('$rc' != 0 && f == 0) f = 1; printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' target/test.log
