#!/bin/bash
# Fetches systemd-analyze of Debian 12 with the libraries that it needs, for the
# comparison of unit files: "systemd-analyze verify --root" prints what systemd
# understood. Nothing is installed, and no daemon of it ever runs.
#
#   $SLASHRUN_DEPS/systemd-analyze/run          runs it, with its own loader and C library
#   $SLASHRUN_DEPS/systemd-analyze/version      its Debian version
#
# What is there already is kept; remove the directory to have it fetched again.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}
say() { echo "systemd-analyze: $*" >&2; }
packages=(systemd libsystemd-shared libc6 libseccomp2 libpam0g libaudit1 libkmod2 libapparmor1 libselinux1 libmount1
	libacl1 libblkid1 libcap2 libcrypt1 libgcrypt20 libip4tc2 liblz4-1 libssl3 libzstd1 liblzma5 libcap-ng0 libpcre2-8-0 libgpg-error0)
[ -x "$deps/systemd-analyze/run" ] && exit 0

mkdir -p "$deps/systemd-analyze.apt/debs"
deps=$(cd "$deps" && pwd)
apt=$deps/systemd-analyze.apt
say "downloading ${#packages[@]} packages of bookworm"
apt_arch=$(dpkg --print-architecture) private_apt "$apt" bookworm
cd "$apt/debs"
apt-get -q download "${packages[@]}" >/dev/null
new=$deps/systemd-analyze.new
rm -rf "$new"
mkdir -p "$new"
for p in "${packages[@]}"; do
	deb=$(ls -t "${p}"_*.deb 2>/dev/null | head -n 1)
	[ -n "$deb" ] || { say "$p was not downloaded"; exit 1; }
	dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$new" --no-same-owner --wildcards './lib/*-linux-gnu*/*' './usr/lib/*-linux-gnu*/*' './usr/bin/systemd-analyze' 2>/dev/null || true
done
dpkg-deb -f "$(ls -t systemd_*.deb | head -n 1)" Version >"$new/version"
cat >"$new/run" <<'RUN'
#!/bin/sh
here=$(dirname "$0")
for lib in "$here"/lib/*-linux-gnu; do
	triplet=${lib##*/}
done
for loader in "$lib"/ld-linux-*.so.*; do :; done
exec "$loader" --library-path "$lib:$here/usr/lib/$triplet:$here/usr/lib/$triplet/systemd" "$here/usr/bin/systemd-analyze" "$@"
RUN
chmod 755 "$new/run"
"$new/run" --version >/dev/null || { say "it does not run here"; exit 1; }
rm -rf "$deps/systemd-analyze"
mv "$new" "$deps/systemd-analyze"
rm -rf "$apt"
