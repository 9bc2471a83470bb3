#!/bin/sh
# Runs `go test` with the given words. Where at most three tests failed, each is tried
# once more by itself: beside others on a busy machine a test may wait in vain. What
# passed then is named in the last lines, for it is still a fault, of the test or of
# the program. One that has named the seed of its chances has those again, five times:
# what goes wrong once in a while is not to pass by other chances. No second try for what
# is not a single test's failure: a data race, a panic, a time-out, a package that does
# not build or whose end failed.
#   scripts/tests.sh -p 2 ./...
#   scripts/tests.sh ./proxy -args -upstream pinned
set -u

GO=${GO:-go}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

{ $GO test "$@"; echo $? >"$work/status"; } 2>&1 | tee "$work/log"
status=$(cat "$work/status")
[ "$status" -eq 0 ] && exit 0

say() { printf 'tests: %s\n' "$*"; }

if grep -Eq 'DATA RACE|race detected during|^panic: |^fatal error: |test timed out' "$work/log"; then
	say "no second try after a race, a panic or a time-out"
	exit "$status"
fi
# Lines "package test"; a package that failed without a test's name is "package -".
awk '
	/^--- FAIL: / { failed[++n] = $3 }
	/^(ok|FAIL)[ \t]+[^ \t]/ {
		if ($1 == "FAIL") {
			if (!n || /\[(build|setup) failed\]/) print $2, "-"
			for (i = 1; i <= n; i++) print $2, failed[i]
		}
		n = 0
	}' "$work/log" | sort -u >"$work/failed"
if grep -q ' -$' "$work/failed" || [ ! -s "$work/failed" ]; then
	say "no second try: a package failed as a whole"
	exit "$status"
fi
if [ "$(wc -l <"$work/failed")" -gt 3 ]; then
	say "no second try for more than three tests"
	exit "$status"
fi

# The words without the packages; what stands behind -args stays there.
flags= rest= seen=
for word in "$@"; do
	case $seen$word in
	args*) rest="$rest $word" ;;
	-args) seen=args rest=" -args" ;;
	./*) ;;
	*) flags="$flags $word" ;;
	esac
done
while read -r package name; do
	# What it has said, without -v, is behind its own line.
	seed=$(awk -v name="$name" '/^--- FAIL: / { its = $3 == name } /^(ok|FAIL)/ { its = 0 } its' "$work/log" |
		grep -Eo -e 'E2E_SEED=[0-9]+' -e '(: |\()-(seed|from) [0-9]+' | head -n 1 | sed 's/^[:( ]*//')
	times=1 chances=$rest
	case $seen$seed in
	*E2E_SEED=*) times=5 ;;
	args*-*) times=5 chances="$rest $seed" ;;
	*-*) times=5 chances=" -args $seed" ;;
	esac
	say "once more, by itself: $name of $package${seed:+, $seed}"
	# shellcheck disable=SC2086 # the flags are words
	if ! env E2E_SEED="${seed#*=}" $GO test $flags -count $times -run "^$name\$" "$package" $chances; then
		say "$name of $package failed twice"
		exit 1
	fi
done <"$work/failed"
while read -r package name; do
	say "FAILED BESIDE OTHERS, passed by itself: $name of $package"
done <"$work/failed"
