#!/bin/bash
# Makes root trees: for chroottest Debian systems that have no systemd, one for each
# way to start a machine; for test/exectest one with the daemons of its images.
#
#   roots.sh [NAME]...                  normally all of them
#
#   $SLASHRUN_DEPS/roots/NAME.tar.zst   the tree, with owners and modes
#                        NAME.list      its packages and their versions
#
# mmdebstrap fetches and installs the packages in a chroot; its maintainer scripts
# run there, in a mount namespace of its own and with device nodes of its own, and
# no daemon is started. It takes root, and about half a minute a tree. What is there
# already is kept as long as the list below is the same.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}/roots
mkdir -p "$deps"
deps=$(cd "$deps" && pwd)
suite=bookworm
declare -A trees=(
	[sysvinit]="sysvinit-core initscripts sysv-rc insserv bootlogd"
	[openrc]="openrc sysvinit-core initscripts"
	[runit]="runit runit-init"
	[services]="nginx-light redis-server apache2 postgresql"
)
# What takes the most room in a tree and does nothing there.
declare -A without=(
	[services]="/usr/lib/*/libLLVM* /usr/lib/*/libz3* /usr/lib/postgresql/*/lib/bitcode/* /usr/share/i18n/* /usr/lib/*/perl/*/CORE/*"
)
common=procps,strace
format=2 # raise it when what this script makes changes
say() { echo "roots: $*" >&2; }

wanted() { echo "$format $suite $common ${trees[$1]}${without[$1]:+ without ${without[$1]}}"; }
make_tree() { # make_tree NAME
	local name=$1 keyring path excludes=() work=/tmp
	keyring=$(apt_keyring)
	set -f # the patterns are dpkg's
	for path in ${without[$name]:-}; do excludes+=(--dpkgopt="path-exclude=$path"); done
	set +f
	say "making a $suite system with $name"
	rm -rf "$deps/$name.new" && mkdir -p "$deps/$name.new"
	case $deps in /tmp/*) work=/var/tmp ;; esac # what is mounted there must not hide $deps
	# A device node of the machine must not get into the chroot, whatever
	# mmdebstrap makes of this machine: it gets a /dev that is not the machine's.
	# The chroot is on a tmpfs, where dpkg's many fsyncs cost nothing.
	if ! unshare --mount --propagation private --pid --fork --mount-proc -- \
		bash -euc '
			dev=$(mktemp -d /tmp/slashrun-dev.XXXXXX)
			mount -t tmpfs -o mode=755,nosuid dev "$dev"
			for n in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do
				set_ () { mknod -m 666 "$dev/$1" c "$2" "$3"; }
				set_ $n
			done
			mkdir "$dev/shm" "$dev/pts"
			mount -t devpts -o newinstance,ptmxmode=0666 devpts "$dev/pts"
			ln -s pts/ptmx "$dev/ptmx"; ln -s /proc/self/fd "$dev/fd"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"; ln -s fd/0 "$dev/stdin"
			mount --move "$dev" /dev
			rmdir "$dev"
			cd /
			export TMPDIR=$1
			shift
			mount -t tmpfs -o mode=1777 tmp "$TMPDIR"
			exec "$@"' bash $work \
		mmdebstrap --quiet --variant=minbase --mode=root --format=tar \
		--include="$common,${trees[$name]// /,}" \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"${excludes[@]}" \
		--customize-hook='chroot "$1" dpkg-query -W >"'"$deps/$name.new/list"'"' \
		"$suite" "$deps/$name.new/tree.tar" "deb [signed-by=$keyring] $(apt_mirror) $suite main" \
		>"$deps/$name.new/log" 2>&1; then
		tail -n 30 "$deps/$name.new/log" >&2
		say "mmdebstrap failed for $name, the log is $deps/$name.new/log"
		return 1
	fi
	zstd -q -T0 -6 -f "$deps/$name.new/tree.tar" -o "$deps/$name.new/tree.tar.zst"
	mv "$deps/$name.new/list" "$deps/$name.list"
	mv "$deps/$name.new/tree.tar.zst" "$deps/$name.tar.zst"
	wanted "$name" >"$deps/$name.made"
	rm -rf "$deps/$name.new"
}

[ $# -gt 0 ] || set -- "${!trees[@]}"
for name; do
	[ -n "${trees[$name]:-}" ] || { say "no tree is called $name: ${!trees[*]}"; exit 1; }
	[ -e "$deps/$name.tar.zst" ] && [ "$(cat "$deps/$name.made" 2>/dev/null)" = "$(wanted "$name")" ] && continue
	if [ "$(id -u)" != 0 ]; then
		say "only root can make the tree of $name; tests that need it need root too"
		continue
	fi
	for tool in mmdebstrap zstd unshare; do
		command -v $tool >/dev/null || { say "$tool is not installed"; exit 1; }
	done
	make_tree "$name"
done
