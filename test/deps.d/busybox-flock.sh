#!/bin/bash
# Builds BusyBox's flock, which no package of Debian has: its busybox leaves that one
# out. The source is Debian's, of sid, and nothing else of it is built.
#
#   $SLASHRUN_DEPS/busybox-flock/busybox     "busybox flock ..."
#   $SLASHRUN_DEPS/busybox-flock/version     its Debian version
#
# What is there already is kept; remove the directory to have it built again. Takes
# half a minute, gcc and make; needs no root. Debian only.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}
say() { echo "busybox-flock: $*" >&2; }
[ -x "$deps/busybox-flock/busybox" ] && exit 0
for tool in gcc make bzip2; do
	command -v $tool >/dev/null || { say "$tool is needed"; exit 1; }
done

mkdir -p "$deps/busybox-flock.apt"
deps=$(cd "$deps" && pwd)
apt=$deps/busybox-flock.apt
apt_arch=$(dpkg --print-architecture) private_apt "$apt" sid
sed -i 's/^deb /deb-src /' "$apt/sources.list"
say "building the flock of BusyBox"
apt-get -q -oAcquire::Check-Valid-Until=false update >"$apt/update.log" 2>&1 || { cat "$apt/update.log" >&2; exit 1; }
cd "$apt"
apt-get -q source --download-only busybox >"$apt/download.log" 2>&1 || { cat "$apt/download.log" >&2; exit 1; }
rm -rf source
mkdir source
tar -x -C source --strip-components=1 -f busybox_*.orig.tar.bz2
make -C source allnoconfig >"$apt/build.log" 2>&1
for name in BUSYBOX SHOW_USAGE LONG_OPTS FLOCK STATIC; do
	sed -i "s/^# CONFIG_$name is not set/CONFIG_$name=y/" source/.config
done
(set +o pipefail; yes '' | make -C source oldconfig) >>"$apt/build.log" 2>&1
make -C source >>"$apt/build.log" 2>&1 || { tail -n 20 "$apt/build.log" >&2; exit 1; }
new=$deps/busybox-flock.new
rm -rf "$new"
mkdir "$new"
cp source/busybox "$new/busybox"
sed -n 's/^Version: //p' busybox_*.dsc | head -n 1 >"$new/version"
echo x >"$apt/lock"
"$new/busybox" flock "$apt/lock" true || { say "it does not run here"; exit 1; }
rm -rf "$deps/busybox-flock"
mv "$new" "$deps/busybox-flock"
rm -rf "$apt"
say "the flock of BusyBox $(cat "$deps/busybox-flock/version") is in $deps/busybox-flock"
