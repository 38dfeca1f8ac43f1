#!/bin/bash
# Fetches the newest util-linux of Debian (sid, forky) with its own C library, for
# the comparisons of "slashrun lock" with flock(1) and lslocks(8):
#
#   $SLASHRUN_DEPS/util-linux/run NAME ARG...   runs NAME (flock, lslocks)
#   $SLASHRUN_DEPS/util-linux/version           its Debian version
#
# "run" is a shell's exec of the one command line that a test or benchmark uses
# itself, where a shell in between would show (closed descriptors, time):
#
#   ld.so --library-path lib --argv0 NAME usr/bin/NAME ARG...
#
# all of it below $SLASHRUN_DEPS/util-linux, ld.so and lib being links. Nothing is
# installed; of the packages nothing is kept but that. What is there already is
# kept; remove the directory to have it fetched again. Needs no root. Debian only.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}
say() { echo "util-linux: $*" >&2; }
packages=(util-linux libsmartcols1 libmount1 libblkid1 libselinux1 libpcre2-8-0 libc6)
[ -x "$deps/util-linux/run" ] && exit 0

mkdir -p "$deps/util-linux.apt/debs"
deps=$(cd "$deps" && pwd)
apt=$deps/util-linux.apt
say "downloading ${#packages[@]} packages of sid and forky"
apt_arch=$(dpkg --print-architecture) private_apt "$apt" sid forky
cd "$apt/debs"
apt-get -q download "${packages[@]}" >/dev/null
new=$deps/util-linux.new
rm -rf "$new"
mkdir -p "$new"
for p in "${packages[@]}"; do
	deb=$(ls -t "${p}"_*.deb 2>/dev/null | head -n 1)
	[ -n "$deb" ] || { say "$p was not downloaded"; exit 1; }
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$new" --no-same-owner --wildcards './usr/lib/*-linux-gnu*/*.so*' \
		'./usr/bin/flock' './usr/bin/lslocks' './usr/share/man/man1/flock.1.gz' './usr/share/man/man8/lslocks.8.gz' 2>/dev/null || true
done
dpkg-deb -f "$(ls -t util-linux_*.deb | head -n 1)" Version >"$new/version"
lib=$(cd "$new" && ls -d usr/lib/*-linux-gnu*)
ln -s "$lib" "$new/lib"
ln -s "$lib/$(cd "$new/$lib" && ls ld-linux-*.so.* | head -n 1)" "$new/ld.so"
cat >"$new/run" <<'RUN'
#!/bin/sh
here=${0%/*}
name=$1
shift
exec "$here/ld.so" --library-path "$here/lib" --argv0 "$name" "$here/usr/bin/$name" "$@"
RUN
chmod 755 "$new/run"
for name in flock lslocks; do
	"$new/run" $name --version >/dev/null || { say "$name does not run here"; exit 1; }
done
rm -rf "$deps/util-linux"
mv "$new" "$deps/util-linux"
rm -rf "$apt"
say "flock and lslocks of util-linux $(cat "$deps/util-linux/version") are in $deps/util-linux"
