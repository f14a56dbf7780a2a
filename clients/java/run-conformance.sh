#!/usr/bin/env bash
# The driver of the conformance kit; setup.sh has built it.
cd "$(dirname "$0")" || exit 1
exec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "target/classes:target/test-classes:$(cat target/classpath.txt)" io.github.meshnode.client.Driver
