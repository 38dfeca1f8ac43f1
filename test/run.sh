#!/bin/bash
# "make test": everything that must hold before a change goes in. The steps in
# order: formatting, vet, staticcheck, the release built twice, the tests as an
# unprivileged user, the tests as root. All steps run even where one fails. What a machine cannot run
# is named; in CI (CI=true) that is a failure.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
failed=()
started=$SECONDS

step() { # step NAME COMMAND...
	local name=$1 at=$SECONDS
	shift
	echo "== $name"
	if ! "$@"; then
		failed+=("$name")
	fi
	echo "== $name: $((SECONDS - at)) s"
}

formatted() {
	local bad
	bad=$(find . -path ./.build -prune -o -path ./dist -prune -o -name '*.go' -print0 | xargs -0 gofmt -l) || return 1
	[ -z "$bad" ] || { echo "not formatted (gofmt -w):" "$bad"; return 1; }
}

# staticcheck comes from the module in test/tools, so that go.mod of slashrun does
# not know of it. The go command rebuilds it only when it changes.
staticcheck() {
	mkdir -p .build/bin &&
		(cd test/tools && go build -o "$root/.build/bin/staticcheck" honnef.co/go/tools/cmd/staticcheck) &&
		.build/bin/staticcheck ./...
}

# gate PASS FILE reads the results of go test -json.
gate() { .build/bin/gate -pass="$1"; }

# As root, the unprivileged pass runs as the user "nobody", on a copy of the
# sources: the tree may be in a directory that only root can enter, and a test
# must not be able to write there. Modules are vendored into the copy, because
# nobody has no module cache.
as_nobody() {
	local dir code deps=$root/.build/deps
	dir=$(mktemp -d /var/tmp/slashrun-test.XXXXXX) || return 1
	chmod 755 "$dir"
	mkdir "$dir/src" "$dir/home" "$dir/cache" "$dir/tmp" &&
		tar -C "$root" --exclude=./.git --exclude=./.build --exclude=./dist -cf - . | tar -C "$dir/src" --no-same-owner -xf - &&
		(cd "$dir/src" && go mod vendor) &&
		chmod -R a+rX "$dir/src" &&
		chown -R 65534:65534 "$dir/home" "$dir/cache" "$dir/tmp" "$dir/src" &&
		if [ -d "$deps" ] && ! nobody test -x "$deps"; then
			cp -a "$deps" "$dir/deps" && chmod -R a+rX "$dir/deps" && deps=$dir/deps
		fi &&
		(cd "$dir/src" && nobody env -i PATH="$PATH" HOME="$dir/home" TMPDIR="$dir/tmp" GOCACHE="$dir/cache" \
			GOTOOLCHAIN=local GOFLAGS=-buildvcs=false LANG=C.UTF-8 CI="${CI:-}" SLASHRUN_DEPS="$deps" \
			go test -json -timeout 10m ./...) | gate unprivileged
	code=$?
	if [ -n "$(ls -A "$dir/tmp")" ]; then
		echo "a test left something in TMPDIR:" && ls -A "$dir/tmp"
		code=1
	fi
	rm -rf "$dir"
	return $code
}
nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups -- "$@"; }

plain() { go test -json -timeout 10m ./... | gate unprivileged; }
# Packages whose tests install the filter that SLASHRUN_SECCOMP names run once
# more without the newer system calls, as a container runtime (EPERM) and as an
# old kernel (ENOSYS) deny them: internal/seccomptest. Left out are the test of
# fsopen itself, and the one that starts podman, which lives with neither. The go
# command does not see that the variable is read, before tests begin, and would
# take the results of one profile for those of the other: -count=1.
denied() {
	local pkgs code=0 profile
	pkgs=$(grep -rlE 'seccomptest\.(Setup|Main)\(' --include=*_test.go --exclude-dir=.build . | xargs -n1 dirname | sort -u | grep -v internal/seccomptest)
	for profile in eperm enosys; do
		# shellcheck disable=SC2086
		SLASHRUN_SECCOMP=$profile go test -count=1 -json -timeout 10m \
			-skip '^(TestAssembleInANamespaceOfItsOwn|TestTryInContainers)$' $pkgs | gate privileged || code=1
	done
	return $code
}
privileged() { go test -json -timeout 30m ./... | gate privileged; }

set -o pipefail
mkdir -p .build/bin
go build -o .build/bin/gate ./test/gate || exit 1
step "gofmt" formatted
step "go vet" go vet ./...
step "staticcheck" staticcheck
step "dist" go run ./release -out .build/dist
if [ "$(id -u)" = 0 ]; then
	step "tests as nobody" as_nobody
	step "tests as root" privileged
	step "tests without the newer system calls" denied
else
	step "tests as $(id -un)" plain
	echo "left out: the tests that need root (run \"make test\" as root on Debian)"
	case ${CI:-} in '' | 0 | false) ;; *) failed+=("tests as root, which CI must run") ;; esac
fi
if [ ${#failed[@]} -gt 0 ]; then
	printf 'make test: failed: %s\n' "${failed[@]}"
	exit 1
fi
echo "make test: all is well, $((SECONDS - started)) s"
