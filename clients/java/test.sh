#!/usr/bin/env bash
# Runs the helper's own tests; setup.sh has built them. The last line is
# "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")" || exit 1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
rm -rf target/surefire-reports
rc=0
mvn -B -o test >"$log" 2>&1 || mvn -B test >"$log" 2>&1 || rc=$?
summary=$(grep -E 'Tests run: [0-9]+, Failures: [0-9]+, Errors: [0-9]+, Skipped: [0-9]+$' "$log" | tail -1)
read -r run failures errors skipped <<<"$(sed -E 's/.*run: ([0-9]+), Failures: ([0-9]+), Errors: ([0-9]+), Skipped: ([0-9]+).*/\1 \2 \3 \4/' <<<"${summary:-run: 0, Failures: 0, Errors: 0, Skipped: 0}")"
failed=$((failures + errors))
if [ "$rc" -ne 0 ]; then
	cat "$log"
	[ "$failed" -gt 0 ] || failed=1
fi
echo "$((run - failures - errors - skipped)) passed, $failed failed, $skipped skipped"
exit "$rc"
