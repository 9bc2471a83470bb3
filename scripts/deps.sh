#!/bin/sh
# Installs what the tests and the demo need beside Go, where it is missing:
#   scripts/deps.sh         redis-server
#   scripts/deps.sh race    and a C compiler, for the race detector
#   scripts/deps.sh suites  and what the suites of Redis and its clients need
#   scripts/deps.sh servers and what fetching servers of other versions needs
#   scripts/deps.sh node    and node and npm
#   scripts/deps.sh browser and Chromium, for the dashboard
#   scripts/deps.sh bench   and the proxies that are measured: haproxy, twemproxy
# Does nothing when all is there. Debian and its kin only; elsewhere it says
# what to install. The packaged services are not started.
set -eu

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }
# installed is not what was removed and has left its configuration, which dpkg -s knows too.
installed() { dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

packages=
case ${REDIS_SERVER:-} in
'') have redis-server || packages=redis-server ;;
*) have "$REDIS_SERVER" || die "REDIS_SERVER is $REDIS_SERVER, which cannot be run; correct it or unset it" ;;
esac
for arg in "$@"; do
	case $arg in
	race) have "${CC:-gcc}" || packages="$packages gcc libc6-dev" ;;
	suites)
		for package in tcl dpkg-dev make gcc libc6-dev libevent-dev debian-archive-keyring redis-tools \
			python3 python3-pytest python3-pytest-asyncio python3-pytest-timeout python3-async-timeout \
			python3-packaging python3-jwt; do
			installed "$package" || packages="$packages $package"
		done
		have node || packages="$packages nodejs"
		have npm || packages="$packages npm"
		;;
	node)
		have node || packages="$packages nodejs"
		have npm || packages="$packages npm"
		;;
	browser) [ -n "${CHROMIUM:-}" ] || have chromium || have google-chrome || packages="$packages chromium" ;;
	servers) installed debian-archive-keyring || packages="$packages debian-archive-keyring" ;;
	bench)
		have redis-benchmark || packages="$packages redis-tools"
		have haproxy || packages="$packages haproxy"
		have nutcracker || packages="$packages nutcracker"
		;;
	*) die "unknown argument $arg; usage: scripts/deps.sh [race] [suites] [node] [servers] [browser] [bench]" ;;
	esac
done
packages=${packages# }
[ -n "$packages" ] || exit 0

have apt-get || die "missing: $packages. This is no Debian; install with your system's own tools: redis-server 7.0 or newer in PATH (or named in REDIS_SERVER), for the race detector a C compiler, and for the benchmark redis-benchmark, haproxy and nutcracker; the suites need Debian"

# as_root runs a command as root.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	elif have sudo; then
		sudo "$@"
	else
		die "missing: $packages. Install as root: apt-get install $packages"
	fi
}

# Packages start their services through invoke-rc.d, which asks policy-rc.d.
# Ours says no, and is there only while we install; one that was there before
# stays as it is, and the service is stopped afterwards instead.
policy=/usr/sbin/policy-rc.d
ours=
tmp=$(mktemp -d)
log=$tmp/log
cleanup() {
	[ -z "$ours" ] || as_root rm -f "$policy"
	rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$tmp/policy"
	as_root install -m 755 "$tmp/policy" "$policy"
	ours=yes
fi

# install_packages does it, or fails with the reasons in $log.
# shellcheck disable=SC2086 # a list of words
install_packages() {
	as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
		apt-get install -y --no-install-recommends $packages >"$log" 2>&1
}

say "installing $packages"
if ! install_packages; then
	say "updating the package lists"
	if ! as_root apt-get update >"$log" 2>&1 || ! install_packages; then
		tail -n 15 "$log" >&2
		die "could not install $packages; what apt-get said is above"
	fi
fi

# Where the policy was somebody else's, the services may run now.
for service in redis-server haproxy nutcracker; do
	case " $packages " in *" $service "*) ;; *) continue ;; esac
	if have systemctl && [ -d /run/systemd/system ]; then
		say "leaving the $service service off"
		as_root systemctl disable --now "$service.service" >/dev/null 2>&1 || true
	elif [ -z "$ours" ] && [ -x "/etc/init.d/$service" ]; then
		say "leaving the $service service off"
		as_root "/etc/init.d/$service" stop >/dev/null 2>&1 || true
	fi
	have "$service" || die "$service is installed but not in PATH"
done
say "done"
