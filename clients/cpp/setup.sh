#!/usr/bin/env bash
# Installs what is missing from Debian's archive (as root), and builds the library,
# its tests and its examples into build/.
set -eu -o pipefail
cd "$(dirname "$0")"
packages=(g++ cmake ninja-build pkg-config libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libssl-dev
	libgtest-dev nlohmann-json3-dev)
missing=()
for p in "${packages[@]}"; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	sudo=
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	if ! { $sudo apt-get update -q && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
		tail -n 5 "$log" >&2
		echo "these packages could not be installed from the apt archive: ${missing[*]}"
		exit 75
	fi
fi
# Optimizing costs more time than the tests take.
cmake -B build -G Ninja -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O0 . >build.log || { cat build.log; exit 1; }
cmake --build build >build.log || { cat build.log; exit 1; }
