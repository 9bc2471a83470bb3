#!/bin/sh
# Unpacks servers of other versions than the installed one into bin/servers, each
# beside the libraries of its own release, and prints what CROSSFADE_SERVERS wants:
# "name=path,name=path". The system's packages, lists and sources are left alone.
# Debian only; a release that cannot be had (any more) is passed over, and said.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'servers: %s\n' "$*" >&2; }
out=$PWD/bin/servers
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
mkdir -p "$out"

# where finds where this system gets Debian's packages.
where() {
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1
}

# unpack name release others package: the newest one of that package in the
# release, and all that it needs, also from the releases "others".
unpack() {
	name=$1 release=$2 others=$3 package=$4
	dir=$out/$name work=$out/$name.work
	[ ! -x "$dir/server" ] || return 0
	mirror=${mirror:-$(where)}
	[ -n "$mirror" ] || { say "no source of Debian's packages is configured here; apt-get update may help"; return 1; }
	rm -rf "$dir" "$work"
	mkdir -p "$work/lists/partial" "$work/archives/partial" "$dir"
	for r in $release $others; do
		echo "deb [signed-by=$keyring] $mirror $r main"
	done >"$work/sources"
	: >"$work/status"
	apt() {
		apt-get -q -o Dir::Etc::SourceList="$work/sources" -o Dir::Etc::SourceParts=/dev/null \
			-o Dir::State::Lists="$work/lists" -o Dir::State::Status="$work/status" \
			-o Dir::Cache="$work" -o Dir::Cache::Archives="$work/archives" -o APT::Sandbox::User= "$@" >>"$work/log" 2>&1
	}
	say "fetching $name"
	apt update && apt install -y --no-install-recommends --download-only -t "$release" "$package" || {
		say "$name cannot be had from $release: $(tail -n 1 "$work/log")"
		rm -rf "$work" "$dir"
		return 1
	}
	for deb in "$work"/archives/*.deb; do
		case ${deb##*/} in redis* | valkey* | redict* | lib* | lua*) dpkg-deb -x "$deb" "$dir" ;; esac
	done
	loader=$(find "$dir" -name 'ld-linux*.so.*' ! -type d | head -n 1)
	program=$(find "$dir/usr/bin" -name '*-server' | head -n 1)
	libraries=$(find "$dir" -type d -path '*/lib/*-linux-gnu' | tr '\n' ':')
	printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$loader" "${libraries%:}" "$program" >"$dir/server"
	chmod +x "$dir/server"
	rm -rf "$work"
	"$dir/server" --version >&2 || { rm -f "$dir/server"; return 1; }
}

list=
for row in "redis-6.0 bullseye - redis-server" \
	"redis-8.0 trixie - redis-server" \
	"valkey-8.0 bookworm-backports bookworm valkey-server" \
	"valkey-8.1 trixie - valkey-server" \
	"valkey-9 forky - valkey-server"; do
	# shellcheck disable=SC2086 # four words
	set -- $row
	others=$3
	[ "$others" != - ] || others=
	if unpack "$1" "$2" "$others" "$4"; then
		list=$list,$1=$out/$1/server
	fi
done
printf '%s\n' "${list#,}"
