#!/usr/bin/env bash
# Makes .venv with the package, its tests and its driver. Exits 75 where the
# package registry cannot be reached.
set -eu -o pipefail
cd "$(dirname "$0")"

find_python() {
	local p
	for p in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
		if "$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
			echo "$p"
			return
		fi
	done
	return 1
}

python=$(find_python) || {
	if command -v apt-get >/dev/null; then
		echo "no Python 3.11 with venv: apt-get install python3 python3-venv"
		{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3 python3-venv; } >/dev/null || true
	fi
	python=$(find_python) || { echo "python: there is no Python 3.11 or newer with venv, and apt-get cannot install one"; exit 75; }
}
# What the environment was made from: its interpreter, and all that is built.
made=$({ "$python" --version; cat pyproject.toml setup.py ../../proto/mesh/v1/*.proto; } | sha256sum)
if [ "$(cat .venv/made 2>/dev/null)" = "$made" ]; then exit 0; fi
rm -rf .venv
"$python" -m venv .venv
if ! .venv/bin/pip --disable-pip-version-check install --quiet --retries 2 --timeout 20 -e '.[test]' 2>.venv/pip.log; then
	cat .venv/pip.log >&2
	if grep -qiE 'connection|timed out|temporary failure|name resolution|max retries|network' .venv/pip.log; then
		echo "python: the package registry cannot be reached"
		exit 75
	fi
	exit 1
fi
# The messages of the examples, for tests that use an ordinary stub.
mkdir -p .venv/examples
.venv/bin/python -m grpc_tools.protoc -I../../examples/proto --python_out=.venv/examples --grpc_python_out=.venv/examples simpledb/v1/simpledb.proto pingserver/v1/pingserver.proto
echo "$made" >.venv/made
