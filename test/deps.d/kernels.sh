#!/bin/bash
# Fetches the kernels of vmtest: Debian's cloud kernels, three releases of them.
#
#   $SLASHRUN_DEPS/kernels/SUITE/vmlinux   uncompressed, which QEMU starts sooner (PVH)
#                                vmlinuz   as Debian has it
#                                release   what uname -r will say
#                                modules/  some modules, NAME.ko, uncompressed
#                                modules/order  the order to load each in that satisfies
#                                          their dependencies, "NAME: NEEDED... NAME" each,
#                                          and "NAME:" alone where it is built in
#
# Nothing is installed, no root is needed. What is there already is kept; remove
# the directory of a suite to have a newer one fetched.
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/test/apt.sh"
deps=${SLASHRUN_DEPS:-$top/.build/deps}/kernels
suites=(bookworm trixie forky)    # 6.1, 6.12, and 7.2 or what follows
modules=(overlay btrfs loop fuse squashfs zram virtio_net)
format=3                          # raise it when what this script makes changes
say() { echo "kernels: $*" >&2; }

# uncompress FILE.ko[.xz|.zst] as FILE.ko
plain() {
	case $1 in
	*.xz) xz -dc "$1" ;;
	*.zst) zstd -dcq "$1" ;;
	*) cat "$1" ;;
	esac
}

# The kernel proper is a compressed ELF file at some offset in vmlinuz.
vmlinux() { # vmlinux VMLINUZ OUTPUT
	local pos tool magic
	while read -r magic tool; do
		for pos in $(LC_ALL=C grep -aobP "$magic" "$1" | cut -d: -f1); do
			tail -c +$((pos + 1)) "$1" | $tool >"$2" 2>/dev/null || true # what follows the stream is an error
			if [ "$(head -c 4 "$2" | tail -c 3)" = ELF ]; then
				return 0
			fi
		done
	done <<-'MAGIC'
		\x28\xb5\x2f\xfd zstd -dcq
		\xfd7zXZ\x00 xz -dcq
		\x02\x21\x4c\x18 lz4 -dcq
		\x1f\x8b\x08 gzip -dcq
	MAGIC
	rm -f "$2"
	return 1
}

# module NAME copies the module and what it needs to $new/modules, once each, and
# prints their names, needed ones first. It prints nothing where the kernel has it
# built in, or not at all.
module() {
	local file need
	file=$(find "$tree" -name "$1.ko*" | head -n 1)
	[ -n "$file" ] || return 0
	[ -e "$new/modules/$1.ko" ] || plain "$file" >"$new/modules/$1.ko"
	# The section .modinfo has a line "depends=a,b", with _ for - in the names.
	for need in $(tr '\0' '\n' <"$new/modules/$1.ko" | sed -n 's/^depends=//p' | tr ',' ' '); do
		[ -n "$(find "$tree" -name "$need.ko*")" ] || need=${need//_/-}
		module "$need"
	done
	echo "$1"
}

fetch() { # fetch SUITE
	local suite=$1 dir=$deps/$1 image deb release base m
	new=$deps/$1.new
	[ "$(cat "$dir/format" 2>/dev/null)" = $format ] && return 0
	say "fetching the kernel of $suite"
	rm -rf "$new" && mkdir -p "$new/modules"
	private_apt "$deps/apt/$suite" "$suite"
	# The package of that name only depends on the one that has the kernel.
	image=$(apt-cache depends --important linux-image-cloud-amd64 | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}')
	[ -n "$image" ] || { say "$suite has no linux-image-cloud-amd64"; return 1; }
	# From forky on that package has no files either: they are in linux-binary-...
	# and linux-modules-..., on which it depends.
	for m in "$image" $(apt-cache depends --important "$image" | awk '$1 == "Depends:" && $2 ~ /^linux-(binary|modules)-/ {print $2}'); do
		(cd "$new" && apt-get -q download "$m" >download.log 2>&1) || { cat "$new/download.log" >&2; return 1; }
	done
	for deb in "$new"/*.deb; do dpkg-deb -x "$deb" "$new/x"; done
	base=$new/x/lib
	[ -d "$base/modules" ] || base=$new/x/usr/lib
	release=$(ls "$base/modules")
	cp "$(find "$new/x" -type f \( -name vmlinuz -o -name "vmlinuz-$release" \) | head -n 1)" "$new/vmlinuz"
	vmlinux "$new/vmlinuz" "$new/vmlinux" || say "cannot uncompress vmlinuz of $suite: it boots a little slower"
	tree=$base/modules/$release
	for m in "${modules[@]}"; do
		echo "$m:" $(module "$m") >>"$new/modules/order"
	done
	echo "$release" >"$new/release"
	echo $format >"$new/format"
	rm -rf "$new/x" "$new"/*.deb "$new/download.log" "$dir"
	mv "$new" "$dir"
	rm -rf "${deps:?}/apt/$suite"
	say "$suite: $release"
}

for suite in "${suites[@]}"; do fetch "$suite"; done
rm -rf "$deps/apt"
