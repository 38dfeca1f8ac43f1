#!/bin/bash
# "make soak": every fuzz target in the tree for FUZZTIME (10m), as many at a time
# as there are processors, each with one worker. What a fuzzer finds stays in the
# package's testdata/fuzz, as a case of the ordinary tests. FUZZ is a regular
# expression that picks targets, JOBS how many run at a time. Before that, every
# test called TestSoak... (a race that wants to be tried often) goes on for
# SOAKTIME (10s) in each of its parts; SOAKTIME=0 leaves them out.
set -u
cd "$(dirname "$0")/.." || exit 1
time=${FUZZTIME:-10m}
jobs=${JOBS:-$(nproc)}
logs=$(mktemp -d) || exit 1
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT
trap 'exit 130' INT TERM

# soak PKG TARGET leaves the log of a failure behind.
soak() {
	local log=$logs/${1##*/}.$2
	if go test -run='^$' -fuzz="^$2\$" -fuzztime="$time" -parallel=1 "$1" >"$log" 2>&1; then
		echo "ok    $1 $2  $(grep -o 'execs: [0-9]*' "$log" | tail -n 1)"
		rm "$log"
	else
		echo "FAIL  $1 $2"
		grep -v '^fuzz: elapsed' "$log" | sed 's/^/      /'
	fi
}

# races runs the TestSoak tests, each of which reads $SLASHRUN_SOAK.
races() {
	local pkgs
	pkgs=$(grep -rl '^func TestSoak' --include=*_test.go . | xargs -n1 dirname | sort -u)
	# shellcheck disable=SC2086
	SLASHRUN_SOAK=${SOAKTIME:-10s} go test -run '^TestSoak' -count=1 -timeout 0 -v $pkgs
}
[ "${SOAKTIME:-10s}" = 0 ] || races || { echo "soak: a race was lost"; exit 1; }

targets=$(go test -list '^Fuzz' -json ./... |
	sed -n 's/.*"Package":"\([^"]*\)".*"Output":"\(Fuzz[A-Za-z0-9_]*\)\\n".*/\1 \2/p' |
	grep -E -- "${FUZZ:-.}")
[ -n "$targets" ] || { echo "soak: no fuzz target matches"; exit 1; }
n=$(wc -l <<<"$targets")
echo "soak: $n targets, $time each, $jobs at a time"
while read -r pkg target; do
	while [ "$(jobs -pr | wc -l)" -ge "$jobs" ]; do wait -n; done
	soak "$pkg" "$target" &
done <<<"$targets"
wait
failed=$(find "$logs" -type f | wc -l)
[ "$failed" = 0 ] || { echo "soak: $failed of $n targets failed"; exit 1; }
echo "soak: $n targets, nothing found"
