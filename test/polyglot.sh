#!/usr/bin/env bash
# polyglot.sh [LANGUAGE...]: installs what the helpers in clients/ need from their
# registries, runs their own tests and the conformance kit, and prints the table.
# Without arguments: every language that has a driver. UPDATE=1 writes the table
# into docs/conformance.md. A language whose registry cannot be reached is skipped,
# with the reason. The last line is
#
#     N passed, N failed, N skipped
#
# The counts of the helpers' own tests are left in test/out/clients.count, the
# records of the kit in test/out/polyglot.json: .ci/run adds both.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

out=test/out
mkdir -p "$out/clients"
rm -f "$out/polyglot.json" "$out/clients.count" "$out/conformance.md"

languages=("$@")
if [ ${#languages[@]} -eq 0 ]; then
	for path in clients/*/run-conformance.sh; do languages+=("$(basename "$(dirname "$path")")"); done
fi

ready=go
passed=0 failed=0 skipped=0
for lang in "${languages[@]}"; do
	log=$out/clients/$lang
	start=$SECONDS
	"clients/$lang/setup.sh" >"$log.setup" 2>&1
	rc=$?
	case $rc in
	0) echo "$lang: set up ($((SECONDS - start)) s)" ;;
	75)
		echo "SKIP: $lang: $(tail -n 1 "$log.setup")"
		continue
		;;
	*)
		tail -n 30 "$log.setup"
		echo "failed: $lang: setup.sh ended with $rc"
		failed=$((failed + 1))
		continue
		;;
	esac
	ready+=,$lang
	start=$SECONDS
	"clients/$lang/test.sh" >"$log.test" 2>&1
	rc=$?
	if read -r p _ f _ s _ < <(tail -n 1 "$log.test") && [[ "$p$f$s" =~ ^[0-9]+$ ]]; then
		echo "$lang: its own tests: $p passed, $f failed, $s skipped ($((SECONDS - start)) s)"
		passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
	else
		f=0
	fi
	if [ "$rc" -ne 0 ]; then
		tail -n 60 "$log.test"
		if [ "$f" -eq 0 ]; then
			echo "failed: $lang: test.sh ended with $rc"
			failed=$((failed + 1))
		else
			echo "failed: $lang: $f of its own tests"
		fi
	fi
done
echo "$passed passed, $failed failed, $skipped skipped" >"$out/clients.count"

start=$SECONDS
args=(-clients "$ready" -table "$PWD/$out/conformance.md")
if [ -n "${UPDATE:-}" ]; then args+=(-update); fi
.bin/gotestsum --format standard-quiet --jsonfile "$out/polyglot.json" -- -count=1 -timeout=15m -run 'TestClients|TestProcesses' ./test/conformance -args "${args[@]}"
rc=$?
echo "the kit ($((SECONDS - start)) s):"
cat "$out/conformance.md"
counted=$(test/count.sh "$out/polyglot.json")
grep '^failed: ' <<<"$counted"
read -r p _ f _ s _ <<<"$(tail -n 1 <<<"$counted")"
echo "$((passed + p)) passed, $((failed + f)) failed, $((skipped + s)) skipped"
[ $rc -eq 0 ] && [ $failed -eq 0 ]
