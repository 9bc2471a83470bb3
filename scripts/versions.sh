#!/bin/sh
# Runs the tests that depend on the server against each of CROSSFADE_SERVERS
# ("name=path,name=path"), or where that is empty, against those that
# scripts/servers.sh finds: the proxy's, shared and pinned, the copies', those of
# ACL users, and the matrix of migrations between every two of them. The proxy's say what Redis
# from 7.0 on does, so an older server is left out there. Fails at the end if any failed.
set -eu
cd "$(dirname "$0")/.."

CROSSFADE_SERVERS=${CROSSFADE_SERVERS:-$(scripts/servers.sh)}
export CROSSFADE_SERVERS
[ -n "$CROSSFADE_SERVERS" ] || { echo "versions: no other server was found" >&2; exit 1; }

failed=
run() {
	echo "=== $1"
	shift
	"$@" || failed="$failed
  $*"
}

echo "$CROSSFADE_SERVERS" | tr ',' '\n' >bin/servers.list
while IFS='=' read -r name path; do
	case $("$path" --version) in
	*v=[0-6].*) echo "=== $name is older than 7.0: not behind the proxy's tests"; continue ;;
	esac
	run "$name, shared" env REDIS_SERVER="$path" "${GO:-go}" test ./proxy -count 1 -timeout 30m
	run "$name, pinned" env REDIS_SERVER="$path" "${GO:-go}" test ./proxy -count 1 -timeout 30m -args -upstream pinned
done <bin/servers.list
run "keys" "${GO:-go}" test ./internal/keyspec -run TestOtherServers -count 1 -timeout 30m
run "copies" "${GO:-go}" test ./sync/value -run TestAcrossVersions -count 1 -timeout 30m
run "users" "${GO:-go}" test ./migration/acl -run TestVersions -count 1 -timeout 30m
run "migrations" "${GO:-go}" test ./e2e -run TestMatrix -count 1 -timeout 2h
[ -z "$failed" ] || { echo "versions: failed:$failed" >&2; exit 1; }
