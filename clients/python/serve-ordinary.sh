#!/usr/bin/env bash
# serve-ordinary.sh [ADDRESS]: an ordinary gRPC server of SimpleDBService; it prints
# its address. setup.sh has made what it needs.
here=$(dirname "$0")
PYTHONPATH=$here/.venv/examples exec "$here/.venv/bin/python" "$here/examples/ordinary_server.py" "$@"
