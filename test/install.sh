#!/bin/bash
# Installs what tests need ("make test-deps"): the packages of test/packages.txt,
# by apt as root on Debian, then whatever the scripts in test/deps.d fetch.
# Quick where everything is there. No daemon is started. Without root, or on
# another distribution, it says what is missing; in CI (CI=true) that is a
# failure.
set -u
cd "$(dirname "$0")/.." || exit 1

problem() {
	echo "test-deps: $*" >&2
	case ${CI:-} in '' | 0 | false) ;; *) exit 1 ;; esac
}

# --- packages

wanted=$(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' test/packages.txt)

missing() {
	local p
	for p in $wanted; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done
}

# policy-rc.d answers 101, "do not", to every script that wants to start a
# daemon (Debian's invoke-rc.d interface). Ours is there while apt runs, and only
# where there is none.
policy=/usr/sbin/policy-rc.d
mark='# placed by slashrun test-deps while apt runs'
allow_daemons() {
	if grep -qsF "$mark" $policy; then rm -f $policy; fi
}
forbid_daemons() {
	[ -e $policy ] && return
	trap allow_daemons EXIT
	printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >$policy.slashrun && chmod 755 $policy.slashrun && mv $policy.slashrun $policy
}

install_packages() {
	local need
	need=$(missing)
	[ -z "$need" ] && return
	if [ "$(id -u)" != 0 ]; then
		problem "these packages are not installed, and only root can do it:" $need
		return
	fi
	echo "test-deps: installing" $need
	export DEBIAN_FRONTEND=noninteractive
	allow_daemons # one that a killed run left
	forbid_daemons
	apt-get -q update || problem "apt-get update failed"
	# shellcheck disable=SC2086
	if ! apt-get -q install -y --no-install-recommends -o Dpkg::Use-Pty=0 $need >.build/apt.log 2>&1; then
		tail -n 30 .build/apt.log >&2
		problem "apt-get install failed, the whole log is in .build/apt.log"
	fi
	allow_daemons
}

mkdir -p .build/deps
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
	install_packages
else
	problem "this is not Debian: install by hand what test/packages.txt lists; tests say what they miss"
fi

# --- fetched files

export SLASHRUN_DEPS=${SLASHRUN_DEPS:-$PWD/.build/deps}
for step in test/deps.d/*; do
	[ -x "$step" ] && [ -f "$step" ] || continue
	"$step" || problem "$step failed; tests that need what it fetches are left out"
done
exit 0
