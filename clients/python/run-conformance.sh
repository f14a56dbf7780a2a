#!/usr/bin/env bash
# The driver of the conformance kit; setup.sh has made what it needs.
here=$(dirname "$0")
exec "$here/.venv/bin/python" "$here/conformance/driver.py"
