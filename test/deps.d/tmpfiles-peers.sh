#!/bin/bash
# Fetches the peers of "slashrun tmpfiles" for the differential test:
#
#   $SLASHRUN_DEPS/systemd-tmpfiles/usr/bin/systemd-tmpfiles  the reference, Debian's
#       systemd-standalone-tmpfiles; 262.* where the archive has it, else the newest
#   $SLASHRUN_DEPS/systemd-tmpfiles/version                   its Debian version
#   $SLASHRUN_DEPS/tmpfiles.d/PACKAGE/*.conf                  the tmpfiles.d files of the real
#       packages in test/tmpfiles-packages.txt, at least 100 of them
#
# apt is a private one below $SLASHRUN_DEPS/apt (test/apt.sh). Nothing is installed, and of the
# packages nothing is kept but those files. A second run finds everything and is quick.
# Needs no root. Debian only: elsewhere it says so and fails.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}
list=$top/test/tmpfiles-packages.txt
want=100
say() { echo "tmpfiles-peers: $*" >&2; }

sum=$(cat "$0" "$top/test/apt.sh" "$list" | sha256sum | cut -d' ' -f1)
have=$({ find "$deps/tmpfiles.d" -mindepth 1 -maxdepth 1 -type d 2>/dev/null || true; } | wc -l)
if [ "$(cat "$deps/tmpfiles-peers.done" 2>/dev/null)" = "$sum" ] && [ "$have" -ge "$want" ] &&
   [ -x "$deps/systemd-tmpfiles/usr/bin/systemd-tmpfiles" ]; then
  exit 0
fi

# -- a private apt
mkdir -p "$deps/apt/debs"
deps=$(cd "$deps" && pwd)
apt=$deps/apt
say "reading the package lists of sid and forky"
apt_arch=$(dpkg --print-architecture) private_apt "$apt" sid forky

# -- the reference
versions=$(apt-cache madison systemd-standalone-tmpfiles | awk -F'|' '$3 !~ /Sources/ {gsub(/ /, "", $2); print $2}')
[ -n "$versions" ] || { say "the archive has no systemd-standalone-tmpfiles"; exit 1; }
newest() { local best= v; for v in "$@"; do if [ -z "$best" ] || dpkg --compare-versions "$v" gt "$best"; then best=$v; fi; done; echo "$best"; }
ref=$(newest $(grep -E '^262([.~-]|$)' <<<"$versions" || true))
[ -n "$ref" ] || { ref=$(newest $versions); say "no version 262 in the archive, taking $ref: differences are reported and do not fail"; }
cd "$apt/debs"
apt-get -q download "systemd-standalone-tmpfiles=$ref" >/dev/null
rm -rf "$deps/systemd-tmpfiles.new"
dpkg-deb -x "$(ls -t systemd-standalone-tmpfiles_*.deb | head -n 1)" "$deps/systemd-tmpfiles.new"
"$deps/systemd-tmpfiles.new/usr/bin/systemd-tmpfiles" --version >/dev/null || { say "the reference $ref does not run here"; exit 1; }
echo "$ref" > "$deps/systemd-tmpfiles.new/version"
rm -rf "$deps/systemd-tmpfiles"
mv "$deps/systemd-tmpfiles.new" "$deps/systemd-tmpfiles"

# -- real packages
mapfile -t names < <(grep -vE '^[[:space:]]*(#|$)' "$list")
mapfile -t known < <(apt-cache --generate pkgnames | LC_ALL=C sort | LC_ALL=C comm -12 - <(printf '%s\n' "${names[@]}" | LC_ALL=C sort))
[ "${#known[@]}" -ge "$want" ] || { say "the archive knows ${#known[@]} of ${#names[@]} listed packages, $want are needed"; exit 1; }
say "downloading ${#known[@]} small packages for their tmpfiles.d files"
apt-get -q download "${known[@]}" >"$apt/download.log" 2>&1 ||
  for p in "${known[@]}"; do apt-get -q download "$p" >>"$apt/download.log" 2>&1 || say "skipping $p: it cannot be downloaded"; done
new=$deps/tmpfiles.d.new
rm -rf "$new"
for p in "${known[@]}"; do
  deb=$(ls -t "${p}"_*.deb 2>/dev/null | head -n 1)
  [ -n "$deb" ] || continue
  x=$apt/extract
  rm -rf "$x"; mkdir -p "$x"
  dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$x" --no-same-owner --wildcards './usr/lib/tmpfiles.d/*' 2>/dev/null || continue
  for f in "$x"/usr/lib/tmpfiles.d/*.conf; do
    [ -f "$f" ] && [ ! -L "$f" ] || continue
    mkdir -p "$new/$p"
    cp "$f" "$new/$p/"
  done
done
mkdir -p "$new"
got=$(find "$new" -mindepth 1 -maxdepth 1 -type d | wc -l)
[ "$got" -ge "$want" ] || { say "$got packages had tmpfiles.d files, $want are needed: see $apt/download.log"; exit 1; }
rm -rf "$deps/tmpfiles.d" "$apt/extract" "$apt/debs"
mv "$new" "$deps/tmpfiles.d"
echo "$sum" > "$deps/tmpfiles-peers.done"
say "systemd-tmpfiles $ref and the tmpfiles.d files of $got packages are in $deps"
