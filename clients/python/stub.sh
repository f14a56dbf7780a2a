#!/usr/bin/env bash
# stub.sh GATEWAY: prints the value of the key "greeting" of db@sdb, by an ordinary
# stub through that gateway; setup.sh has made what it needs.
here=$(dirname "$0")
PYTHONPATH=$here/.venv/examples exec "$here/.venv/bin/python" "$here/examples/stub_through_gateway.py" "$@"
