#!/bin/sh
# "make install" and "make uninstall": the executable, its manual pages and its
# completions below PREFIX (/usr/local), with DESTDIR in front of every path.
#
#   BINDIR DATADIR MANDIR   other directories than PREFIX/bin, share, share/man
#   LINKS="flock ..."       other names of the executable, links beside it; none
#                           by default, and never in the place of something else
#   SLASHRUN=FILE           an executable to install (dist/slashrun-linux-amd64),
#                           instead of a new build; it must run on this machine
#   VERSION                 the version to build in (git describe)
set -eu
cd "$(dirname "$0")/.."
umask 022
: "${PREFIX:=/usr/local}" "${DESTDIR=}"
: "${BINDIR:=$PREFIX/bin}" "${DATADIR:=$PREFIX/share}"
: "${MANDIR:=$DATADIR/man}" "${LINKS=}" "${SLASHRUN=}"

fail() {
	echo "make install: $*" >&2
	exit 1
}

for name in $LINKS; do
	case $name in
	flock | systemd-tmpfiles | systemd-tmpfiles.standalone) ;;
	*) fail "slashrun has no other name $name" ;;
	esac
	link=$DESTDIR$BINDIR/$name
	if [ -e "$link" ] || [ -L "$link" ]; then
		[ "$(readlink "$link")" = slashrun ] ||
			fail "$link is there, and is not ours: remove or divert it (dpkg-divert), or leave it out of LINKS"
	fi
done

# version is what git says of this very tree, whoever owns it: its Makefile runs in
# any case. A repository above it is not asked: git runs what that one's
# configuration says (CVE-2022-24765), and it may be anybody's.
version() {
	[ -e .git ] || return 0
	here=$(pwd -P)
	unset GIT_DIR GIT_WORK_TREE
	GIT_CEILING_DIRECTORIES=${here%/*} git -c safe.directory="$here" describe --tags --always --dirty 2>/dev/null | sed 's/^v//'
}

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# put MODE SOURCE TARGET: the target is there in full, old or new, at any moment.
put() {
	mkdir -p "$DESTDIR${3%/*}"
	cp "$2" "$DESTDIR$3.new"
	chmod "$1" "$DESTDIR$3.new"
	mv -f "$DESTDIR$3.new" "$DESTDIR$3"
}
remove() { rm -f "$DESTDIR$3"; }

case ${1-} in
install)
	act=put
	if [ -z "$SLASHRUN" ]; then
		SLASHRUN=$tmp/slashrun
		: "${VERSION:=$(version)}"
		CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$SLASHRUN" \
			-ldflags "-s -w -X github.com/slashrun/slashrun/internal/cli.version=${VERSION:-devel}" ./cmd/slashrun
	fi
	case $SLASHRUN in */*) ;; *) SLASHRUN=./$SLASHRUN ;; esac
	for shell in bash fish zsh; do
		"$SLASHRUN" completion $shell >"$tmp/$shell" || fail "$SLASHRUN does not run here"
	done
	;;
uninstall) act=remove ;;
*) fail "what? install or uninstall" ;;
esac

$act 755 "$SLASHRUN" "$BINDIR/slashrun"
$act 644 LICENSE "$DATADIR/doc/slashrun/LICENSE"
$act 644 "$tmp/bash" "$DATADIR/bash-completion/completions/slashrun"
$act 644 "$tmp/fish" "$DATADIR/fish/vendor_completions.d/slashrun.fish"
$act 644 "$tmp/zsh" "$DATADIR/zsh/site-functions/_slashrun"
for page in man/*.[1-9]; do
	gzip -9nc "$page" >"$tmp/page"
	$act 644 "$tmp/page" "$MANDIR/man${page##*.}/${page##*/}.gz"
done
[ $act = put ] || LINKS="flock systemd-tmpfiles systemd-tmpfiles.standalone"
for name in $LINKS; do
	link=$DESTDIR$BINDIR/$name
	case $act,$(readlink "$link") in
	put,*) ln -sfn slashrun "$link" ;;
	remove,slashrun) rm -f "$link" ;;
	esac
done
