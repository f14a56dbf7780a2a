#!/usr/bin/env bash
# All tests of the library. The last line is: N passed, N failed, N skipped
# Those that need a meshnode run where Go is there to build one.
set -u -o pipefail
cd "$(dirname "$0")" || exit 1
if command -v go >/dev/null && go build -C ../.. -o clients/cpp/build/meshnode ./cmd/meshnode; then
	export MESHNODE=$PWD/build/meshnode
fi
ctest --test-dir build --output-on-failure --no-tests=error --timeout 120 -j 2 | tee build/test.log
awk '/^ *[0-9]+\/[0-9]+ Test +#/ { if (/\*\*\*Skipped/) s++; else if (/ Passed /) p++; else f++ }
	END { if (p + f + s == 0) f = 1; printf "%d passed, %d failed, %d skipped\n", p, f, s; exit f > 0 }' build/test.log
