#!/usr/bin/env bash
# stub.sh GATEWAY: prints the value of the key "greeting" of db@sdb, by an ordinary
# stub through that gateway; setup.sh has built it.
exec "$(dirname "$0")/build/example_stub" "$@" greeting
