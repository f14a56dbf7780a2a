#!/usr/bin/env bash
# Builds the two programs of the example, starts each as a process, shows
# what they print, and checks the outcome. Exits 0 only where
#
#   - cluster1 said that it listens, and ended with 0 after SIGTERM,
#   - cluster2 ended with 0 by itself,
#   - each line of `expected1` and `expected2` was printed, by the one or the other.
#
# The nodes listen on the ports of the example, 2528 and 2529. Where these are
# taken the demo says so and takes two others.
set -euo pipefail
cd "$(dirname "$0")/.."

ready='cluster1 is ready' # cluster1 prints it once db and db2 are open
expected1=(
	'nil'     # what SET a said: it had no value
	'foobar'  # what GET a said
	'foobar2' # and GET b
	'cluster2 ping proxy []'
	'cluster2 ping db2:longstringRRRRRR...(102414) [(cluster2-db2@sdb-2)cluster]' # the traced push
)
expected2=(
	'rpc error: code = Unavailable desc = cluster node [db3] is absent.' # with __nowaiting
	'foobar'
	'foobar2'
	'cluster node [db] is down.'
	'hello' # from db3, once the reload had brought it
)
limit=30 # seconds for each step
tries=5  # pairs of ports

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

# Starts cluster1 on the ports $1 and $2, and waits until it is ready. Returns 1
# where a port is taken. The programs write into a file and through sed to the
# screen, so that $! is the program itself.
start() {
	nodes=(-db "127.0.0.1:$1" -db2 "127.0.0.1:$2")
	"$out/cluster1" "${nodes[@]}" > >(tee "$out/cluster1.log" | sed -u 's/^/cluster1 | /') 2>&1 &
	server=$!
	for ((i = 0; i < limit * 10; i++)); do
		if grep -qsF "$ready" "$out/cluster1.log"; then return 0; fi
		kill -0 "$server" 2>/dev/null || break
		sleep 0.1
	done
	kill -0 "$server" 2>/dev/null && fail "cluster1 did not say '$ready' within $limit s"
	wait "$server" || true
	server=
	for ((i = 0; i < 50; i++)); do # its last words may still be on their way through tee
		if grep -qsF 'address already in use' "$out/cluster1.log"; then break; fi
		sleep 0.1
	done
	[ "$i" -lt 50 ] || fail "cluster1 ended before it said '$ready'"
	echo "demo: port $1 or $2 is taken: trying others"
	return 1
}

# Looks for the lines $2... in the output of the program $1, which has ended. What
# it printed last may still be on its way through tee.
check() {
	local program=$1
	shift
	for line in "$@"; do
		for ((i = 0; i < 50; i++)); do
			if grep -qxF -- "$line" "$out/$program.log"; then continue 2; fi
			sleep 0.1
		done
		fail "$program did not print '$line'"
	done
}

go build -buildvcs=false -o "$out/" ./examples/cluster1 ./examples/cluster2

port=2528
for ((try = 1; ; try++)); do
	if start "$port" $((port + 1)); then break; fi
	[ "$try" -lt "$tries" ] || fail "no pair of free ports in $tries tries: see which program holds them with 'ss -ltnp'"
	port=$((20000 + RANDOM % 5000 * 2)) # below those that the system gives away
done

rc=0
timeout --kill-after=5 "$limit" "$out/cluster2" "${nodes[@]}" 2>&1 | tee "$out/cluster2.log" | sed -u 's/^/cluster2 | /' || rc=$?
[ "$rc" -eq 0 ] || fail "cluster2 ended with $rc (124: not done within $limit s)"

kill -TERM "$server"
for ((i = 0; i < limit * 10; i++)); do
	kill -0 "$server" 2>/dev/null || break
	sleep 0.1
done
kill -KILL "$server" 2>/dev/null || true # only where it has not ended: then wait says 137
wait "$server" || rc=$?
server=
[ "$rc" -eq 0 ] || fail "cluster1 ended with $rc after SIGTERM"

check cluster1 "${expected1[@]}"
check cluster2 "${expected2[@]}"
echo "demo: ok, both processes did what the example promises"
