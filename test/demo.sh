#!/usr/bin/env bash
# Builds the two programs of the example, starts each as a process, shows
# what they print, and checks the outcome. Exits 0 only where
#
#   - cluster1 said that it listens, and ended with 0 after SIGTERM,
#   - cluster2 ended with 0 by itself,
#   - each line of `expected` was printed by cluster2.
set -euo pipefail
cd "$(dirname "$0")/.."

ready='listening'  # cluster1 prints it once db and db2 are open
expected=(
	'cluster node [db] is down.'
)
limit=60 # seconds for each program

out=$(mktemp -d)
server=
cleanup() {
	if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
	rm -rf "$out"
}
trap cleanup EXIT

fail() {
	echo "demo: $*" >&2
	exit 1
}

go build -buildvcs=false -o "$out/" ./examples/cluster1 ./examples/cluster2

# The programs write into a file and through sed to the screen, so that $! is the
# program itself.
"$out/cluster1" > >(tee "$out/cluster1.log" | sed -u 's/^/cluster1 | /') 2>&1 &
server=$!
for ((i = 0; i < limit * 10; i++)); do
	if grep -qsF "$ready" "$out/cluster1.log"; then break; fi
	kill -0 "$server" 2>/dev/null || fail "cluster1 ended before it said '$ready'"
	sleep 0.1
done
grep -qsF "$ready" "$out/cluster1.log" || fail "cluster1 did not say '$ready' within $limit s"

rc=0
timeout --kill-after=5 "$limit" "$out/cluster2" 2>&1 | tee "$out/cluster2.log" | sed -u 's/^/cluster2 | /' || rc=$?
[ "$rc" -eq 0 ] || fail "cluster2 ended with $rc (124: not done within $limit s)"
for line in "${expected[@]}"; do
	grep -qF -- "$line" "$out/cluster2.log" || fail "cluster2 did not print '$line'"
done

kill -TERM "$server"
for ((i = 0; i < limit * 10; i++)); do
	kill -0 "$server" 2>/dev/null || break
	sleep 0.1
done
kill -KILL "$server" 2>/dev/null || true # only where it has not ended: then wait says 137
wait "$server" || rc=$?
server=
[ "$rc" -eq 0 ] || fail "cluster1 ended with $rc after SIGTERM"
echo "demo: ok, both processes did what the example promises"
