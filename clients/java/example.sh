#!/usr/bin/env bash
# Runs an example: ./example.sh Call [ADDRESS]; setup.sh has built it.
cd "$(dirname "$0")" || exit 1
name=${1:?which? Call, Answer or Stub}
shift
exec java -cp "target/classes:target/test-classes:$(cat target/classpath.txt)" "io.github.meshnode.client.examples.$name" "$@"
