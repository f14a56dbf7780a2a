#!/usr/bin/env bash
# Runs the helper's own tests; setup.sh has built them. The last line is
# "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")" || exit 1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
node --test --test-reporter=tap build/test/*.test.js >"$log" 2>&1
rc=$?
count() { sed -n "s/^# $1 //p" "$log" | tail -1; }
if [ "$rc" -ne 0 ]; then cat "$log"; else grep -E '^# (tests|duration_ms)' "$log"; fi
failed=$(count fail)
[ "$rc" -eq 0 ] || [ "${failed:-0}" -gt 0 ] || failed=1
echo "$(count pass) passed, ${failed:-1} failed, $(count skipped) skipped"
exit "$rc"
