# shellcheck shell=bash
# Sourced by scripts of test/deps.d that take packages from another release of
# Debian: an apt with its own configuration, lists and cache, so that nothing of
# the machine's own apt changes and no root is needed. Signatures are checked
# with Debian's keyring.
#
#   private_apt DIR SUITE...   makes DIR/apt.conf, reads the package lists of the suites
#                              and sets $APT_CONFIG, after which apt-get and apt-cache know
#                              of them alone, and run none of the machine's hooks. Returns
#                              1 after a message.
#
# The mirror is $SLASHRUN_MIRROR, else the one that this machine uses. $apt_arch is the
# architecture, amd64 unless set.

apt_mirror() {
	local found=${SLASHRUN_MIRROR:-}
	[ -n "$found" ] || found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
		grep -v '^[[:space:]]*#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ')
	[ -n "$found" ] || { echo "${0##*/}: no Debian mirror in this machine's apt sources: set SLASHRUN_MIRROR" >&2 && return 1; }
	echo "$found"
}

apt_keyring() {
	local k
	for k in /usr/share/keyrings/debian-archive-keyring.pgp /usr/share/keyrings/debian-archive-keyring.gpg; do
		[ -r "$k" ] && echo "$k" && return
	done
	echo "${0##*/}: no Debian keyring in /usr/share/keyrings: install debian-archive-keyring" >&2
	return 1
}

private_apt() {
	local dir keyring mirror tool
	for tool in apt-get apt-cache dpkg-deb; do
		command -v $tool >/dev/null || { echo "${0##*/}: $tool is needed; this works on Debian" >&2 && return 1; }
	done
	keyring=$(apt_keyring) || return 1
	mirror=$(apt_mirror) || return 1
	mkdir -p "$1"/{lists/partial,cache/archives/partial,none} || return 1
	dir=$(cd "$1" && pwd) || return 1
	shift
	printf "deb [signed-by=$keyring] $mirror %s main\n" "$@" >"$dir/sources.list"
	: >"$dir/status"
	cat >"$dir/apt.conf" <<-CONF
		Dir::State::lists "$dir/lists";
		Dir::State::status "$dir/status";
		Dir::Cache "$dir/cache";
		Dir::Etc::sourcelist "$dir/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "$dir/none";
		Dir::Etc::main "/dev/null";
		Dir::Etc::parts "$dir/none";
		Acquire::Languages "none";
		Acquire::Retries "3";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
		APT::Architecture "${apt_arch:-amd64}";
	CONF
	# apt downloads as the user _apt, who may not reach the directory.
	[ "$(id -u)" != 0 ] || echo 'APT::Sandbox::User "root";' >>"$dir/apt.conf"
	export APT_CONFIG=$dir/apt.conf LC_ALL=C.UTF-8
	# A frozen mirror keeps Release files past their Valid-Until.
	if ! apt-get -q -oAcquire::Check-Valid-Until=false update >"$dir/update.log" 2>&1; then
		cat "$dir/update.log" >&2
		echo "${0##*/}: cannot read the package lists of $*" >&2
		return 1
	fi
}
