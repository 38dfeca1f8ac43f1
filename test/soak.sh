#!/bin/bash
# "make soak": every fuzz target in the tree for FUZZTIME (10m), one after the
# other. What a fuzzer finds stays in the package's testdata/fuzz, as a case of
# the ordinary tests. FUZZ is a regular expression that picks targets.
set -u
cd "$(dirname "$0")/.." || exit 1
time=${FUZZTIME:-10m}
failed=() n=0
while read -r pkg target; do
	n=$((n + 1))
	echo "== $pkg $target, $time"
	go test -run='^$' -fuzz="^$target\$" -fuzztime="$time" "$pkg" || failed+=("$pkg $target")
done < <(
	go test -list '^Fuzz' -json ./... |
		sed -n 's/.*"Package":"\([^"]*\)".*"Output":"\(Fuzz[A-Za-z0-9_]*\)\\n".*/\1 \2/p' |
		grep -E -- "${FUZZ:-.}"
)
[ $n -gt 0 ] || { echo "soak: no fuzz target matches"; exit 1; }
if [ ${#failed[@]} -gt 0 ]; then
	printf 'soak: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "soak: $n targets, nothing found"
