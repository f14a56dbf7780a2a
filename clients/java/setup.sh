#!/usr/bin/env bash
# Installs what clients/java needs from Maven Central and builds the helper, its
# tests and the driver of the conformance kit. Quick the second time. Ends with
# 75 where Maven Central cannot be reached. Installs a JDK and Maven by apt-get
# where they are missing and it may.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v mvn >/dev/null || ! command -v javac >/dev/null; then
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		echo "mvn or javac is missing: install Maven 3.8 and a JDK 17, or newer" >&2
		exit 1
	fi
	export DEBIAN_FRONTEND=noninteractive
	if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends maven default-jdk-headless; } >/dev/null; then
		echo "apt-get could not install Maven and a JDK"
		exit 75
	fi
fi

newest=$(find ../../proto ../../examples/proto src pom.xml -type f -newer target/.built 2>/dev/null | head -1 || true)
if [ -f target/.built ] && [ -z "$newest" ]; then exit 0; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
goals="test-compile dependency:build-classpath -Dmdep.outputFile=target/classpath.txt -Dmdep.includeScope=test"
# Without the network first: nothing is looked up that is here already.
if ! mvn -B -q -o $goals >"$log" 2>&1 && ! mvn -B -q $goals >"$log" 2>&1; then
	cat "$log" >&2
	if grep -qE 'Unknown host|UnknownHostException|Connection refused|timed out|Network is unreachable' "$log"; then
		echo "Maven Central cannot be reached"
		exit 75
	fi
	exit 1
fi
touch target/.built
