# make demo    a machine made, used and deleted, from nothing
# make test    everything that must hold, real machines included
# make bench   the figures of docs/benchmarks.md, measured now

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help deps host image image-debian image-disk build release install uninstall deb units demo test lint deny tested check unit api bench simulate books soak generated clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

image: ## the small guest, from Debian packages
	@scripts/install-deps.sh demo
	@images/tiny/build target/images/tiny

image-debian: ## the guest with systemd and cloud-init, from Debian packages; needs root
	@scripts/install-deps.sh test
	@images/debian/build target/images/debian

image-disk: ## two whole disks, for BIOS and for UEFI, from tiny and Debian's boot loaders
	@scripts/install-deps.sh test
	@images/disk/build target/images/disk

build: ## a debug build
	cargo build --workspace

release: ## a release build
	@cargo build --release --locked -p hostler --features rabbitmq

install: ## the program, units, manual, completions; PREFIX, DESTDIR
	@scripts/install.sh install

uninstall: ## take away what install put there
	@scripts/install.sh uninstall

deb: ## target/hostler_VERSION_ARCH.deb, from a release build
	@scripts/deb.sh

units: image ## the package in a Debian guest with systemd, from installing to purging; needs root and a quarter of an hour
	@scripts/install-deps.sh test
	@scripts/units-in-a-guest.sh

demo: image release ## a machine made, used and deleted, from nothing
	@scripts/demo.sh

# In a fresh clone all is compiled once: nothing is kept for a next time, which takes longer.
ifeq ($(wildcard target/debug/incremental),)
test: export CARGO_INCREMENTAL = 0
endif

# Who is not root may be asked for a password, which nobody sees who is not in front.
test: ## everything that must hold: format, lints, imports, tests with real machines, the API under fire
	@if [ "$$(id -u)" = 0 ]; then scripts/beside.sh '$(MAKE) --no-print-directory host' $(MAKE) --no-print-directory lint; \
		else $(MAKE) --no-print-directory host lint; fi
	@$(MAKE) --no-print-directory check
	@scripts/beside.sh 'scripts/tests.sh waiting && scripts/schemathesis.sh' \
		scripts/tests.sh working $$(scripts/debian-image.sh skip)
	@scripts/debian-image.sh remind

host: ## what tests need of this host: programs, images, schemathesis
	@scripts/install-deps.sh test
	@images/tiny/build target/images/tiny
	@images/disk/build target/images/disk
	@scripts/debian-image.sh
	@scripts/schemathesis.sh install

lint: ## format and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

deny: ## licenses, sources and versions of all dependencies: cargo-deny, installed below target/ at first
	@test -x target/deny/bin/cargo-deny || cargo install cargo-deny --locked --root target/deny
	target/deny/bin/cargo-deny --all-features check --hide-inclusion-graph licenses bans sources

# Everything at once, as the tests want it: with the points at which they kill the process, and with the features that
# only tests ask of libraries, so that each of these is compiled once.
tested:
	cargo build --locked --workspace --all-features --all-targets

check: tested ## the direction of imports, the documents made from the code
	target/debug/xtask check

unit: tested ## every test
	@scripts/beside.sh 'scripts/tests.sh waiting' scripts/tests.sh working $$(scripts/debian-image.sh skip)

api: tested ## the OpenAPI document against the server: schemathesis
	scripts/schemathesis.sh

bench: image ## the figures of docs/benchmarks.md, measured now
	cargo xtask bench

simulate: ## whole systems from seeds, in virtual time, under faults; SEEDS=10000
	cargo xtask simulate --seeds $${SEEDS:-10000}

books: ## random histories of the store with crashes, and its books against what exists; HISTORIES=10000
	cargo xtask simulate --books --seeds $${HISTORIES:-10000}

soak: ## a server with a thousand nodes under the same load: memory and latencies stay flat; MINUTES=10
	cargo xtask soak --minutes $${MINUTES:-10}

generated: ## write docs/openapi.json and docs/errors.md from the code
	cargo xtask generate

clean: ## remove what was built
	cargo clean
