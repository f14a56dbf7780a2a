#!/usr/bin/env bash
# The examples, as README.md says, against a real meshnode (MESHNODE names its
# binary), and a program of a user's against the installed library.
#
#   examples.sh DIRECTORY-OF-THE-EXAMPLES BUILD-DIRECTORY SOURCE-DIRECTORY
set -eu -o pipefail
examples=$1 build=$2 source=$3
if [ -z "${MESHNODE:-}" ]; then
	echo "MESHNODE is not set"
	exit 77
fi
work=$(mktemp -d)
trap 'kill $node 2>/dev/null; rm -rf "$work"' EXIT

# start: a node at a port that is free, and its gateway.
start() {
	db=127.0.0.1:$((20000 + RANDOM % 12000))
	"$MESHNODE" serve --log json --node "db=$db" --open db --example simpledb --gateway 127.0.0.1:0 2>"$work/log" &
	node=$!
	while kill -0 $node 2>/dev/null; do
		gateway=$(sed -n '/"gateway listening"/s/.*"addr":"\([^"]*\)".*/\1/p' "$work/log")
		[ -z "$gateway" ] || return 0
		sleep 0.1
	done
	return 1
}
start || start || start || { cat "$work/log"; exit 1; }

is() {
	[ "$1" = "$2" ] || { printf 'got:\n%s\nwant:\n%s\n' "$1" "$2"; exit 1; }
}

is "$("$examples/example_link" "$db")" hello
is "$("$examples/example_stub" "$gateway" k v1)" $'before: (nothing)\nv1'
is "$("$examples/example_stub" "$gateway" k v2)" $'before: v1\nv2'
is "$("$examples/example_stub" "$gateway" none)" "(nothing)"

cmake --install "$build" --prefix "$work/prefix" >/dev/null
mkdir "$work/user"
cat >"$work/user/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.21)
project(user CXX)
find_package(meshnode 0.1 REQUIRED)
add_executable(user main.cc)
target_link_libraries(user PRIVATE meshnode::meshnode)
END
cp "$source/examples/link.cc" "$work/user/main.cc"
cmake -S "$work/user" -B "$work/user/build" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/user/build" >/dev/null
is "$("$work/user/build/user" "$db")" hello

# README.md shows the example as it is.
awk '/^```cpp/ { on = 1; next } /^```/ { on = 0 } on' "$source/README.md" >"$work/shown"
tail -n +3 "$source/examples/link.cc" | diff - "$work/shown"
