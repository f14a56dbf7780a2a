#!/usr/bin/env bash
# The driver of the conformance kit; setup.sh has built it.
exec node "$(dirname "$0")/build/test/driver.js"
