#!/usr/bin/env bash
# The driver of the conformance kit, built by setup.sh.
exec "$(dirname "$0")/build/test/conformance"
