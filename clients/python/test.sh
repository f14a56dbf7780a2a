#!/usr/bin/env bash
# The helper's own tests: pytest, and mypy as one more. The last line is
# "N passed, N failed, N skipped".
set -uo pipefail
cd "$(dirname "$0")" || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
rc=0
.venv/bin/python -m pytest -q -rfE >"$log" 2>&1 || rc=$?
cat "$log"
count() { grep -oE "[0-9]+ $1" <<<"$(tail -n 1 "$log")" | cut -d' ' -f1; }
passed=$(count passed) failed=$(count 'failed') errors=$(count 'errors?') skipped=$(count skipped)
failed=$((${failed:-0} + ${errors:-0}))
if [ "$rc" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
if .venv/bin/python -m mypy; then passed=$((${passed:-0} + 1)); else failed=$((failed + 1)); fi
echo "${passed:-0} passed, $failed failed, ${skipped:-0} skipped"
[ "$failed" -eq 0 ]
