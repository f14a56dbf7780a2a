#!/usr/bin/env bash
# count.sh FILE...: reads records of `go test -json` and prints, as its last
# line, how many different tests passed, failed and were skipped. A test that ran
# several times passed when every run did. A test that began and never ended
# failed, and so did a package that failed without a failing test of its own.
set -eu
awk '
function field(name,    at, rest) { # the string value of a key; values are escaped, so a key cannot be found inside one
	at = index($0, "\"" name "\":\"")
	if (at == 0) return ""
	rest = substr($0, at + length(name) + 4)
	match(rest, /^([^"\\]|\\.)*/)
	return substr(rest, 1, RLENGTH)
}
/"Action":"(run|pass|fail|skip)"/ {
	action = field("Action"); pkg = field("Package"); test = field("Test")
	if (test == "") { if (action == "fail") broken[pkg] = 1; next }
	key = pkg "." test
	of[key] = pkg
	if (action == "run") { running[key] = 1; next }
	delete running[key]
	if (action == "fail") failed[key] = 1
	else if (action == "pass") passed[key] = 1
}
END {
	for (key in running) failed[key] = 1
	for (key in of) {
		if (key in failed) { nfailed++; has[of[key]] = 1; print "failed: " key }
		else if (key in passed) npassed++
		else nskipped++
	}
	for (pkg in broken) if (!(pkg in has)) { nfailed++; print "failed: " pkg }
	printf "%d passed, %d failed, %d skipped\n", npassed, nfailed, nskipped
}' "$@"
