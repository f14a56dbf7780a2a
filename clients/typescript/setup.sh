#!/usr/bin/env bash
# Installs what clients/typescript needs from npm and builds the helper, its
# tests and the driver of the conformance kit. Quick the second time. Ends with
# 75 where npm's registry cannot be reached.
set -euo pipefail
cd "$(dirname "$0")"

command -v npm >/dev/null || { echo "npm is missing: install Node.js 20 or newer" >&2; exit 1; }

if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	if ! npm ci --ignore-scripts --no-audit --no-fund --no-progress >"$log" 2>&1; then
		cat "$log" >&2
		if grep -qE 'ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH' "$log"; then
			echo "the npm registry cannot be reached"
			exit 75
		fi
		exit 1
	fi
	touch node_modules/.package-lock.json
fi

newest=$(find ../../proto ../../examples/proto src test examples package.json tsconfig.json buf.gen.yaml -type f \
	-not -path '*/gen/*' -newer build/.built 2>/dev/null | head -1 || true)
if [ ! -f build/.built ] || [ -n "$newest" ]; then
	npm run --silent build:all
	touch build/.built
fi
