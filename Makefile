# The commands of this project. "make" alone builds.
# No version control stamp: a build depends on the sources alone.
export GOFLAGS ?= -buildvcs=false
export CGO_ENABLED = 0
# Where Go's own archive unpacks to, for a root shell that does not know of it.
export PATH := $(PATH):/usr/local/go/bin

.PHONY: build install uninstall test-deps test dist soak bench clean

build: ## .build/bin/slashrun
	go build -trimpath -o .build/bin/ ./cmd/...

test-deps: ## install the tools that tests need (as root, on Debian), fetch references
	@test/install.sh

test: test-deps ## everything that must hold before a change goes in
	@test/run.sh

install: ## build and install; PREFIX=/usr/local DESTDIR= LINKS="flock ...": release/install.sh
	@release/install.sh install

uninstall: ## remove what install puts there
	@release/install.sh uninstall

dist: ## dist/: static executables, archives for /usr/local, checksums, OCI image
	go run ./release -out dist

soak: ## every race for SOAKTIME=10s, every fuzz target for FUZZTIME=10m
	@test/soak.sh

bench: ## all benchmarks; RECORD=--record writes docs/benchmarks.md
	@set -e; for b in bench/*/main.go; do go run ./$${b%/main.go} $(RECORD); done

clean:
	rm -rf .build dist
