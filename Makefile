# make demo    a machine made, used and deleted, from nothing
# make test    everything that must hold, real machines included
# make bench   the figures of docs/benchmarks.md, measured now

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help deps image image-debian image-disk build release install uninstall deb units demo test lint deny check unit api bench simulate soak generated clean

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

test: ## everything that must hold: format, lints, imports, tests with real machines, the API under fire
	@scripts/install-deps.sh test
	@images/tiny/build target/images/tiny
	@images/disk/build target/images/disk
	@scripts/debian-image.sh
	@$(MAKE) --no-print-directory lint check unit api
	@scripts/debian-image.sh remind

lint: ## format and clippy, warnings denied
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings

deny: ## licenses, sources and versions of all dependencies: cargo-deny, installed below target/ at first
	@test -x target/deny/bin/cargo-deny || cargo install cargo-deny --locked --root target/deny
	target/deny/bin/cargo-deny --all-features check licenses bans sources

check: ## the direction of imports, the documents made from the code
	cargo xtask check

unit: ## every test; --all-features turns on the points at which tests kill the process
	cargo build --locked --workspace --all-features
	cargo test --locked --workspace --all-features -- $$(scripts/debian-image.sh skip)

api: ## the OpenAPI document against the server: schemathesis
	scripts/schemathesis.sh

bench: image ## the figures of docs/benchmarks.md, measured now
	cargo xtask bench

simulate: ## whole systems from seeds, in virtual time, under faults; SEEDS=10000
	cargo xtask simulate --seeds $${SEEDS:-10000}

soak: ## a server with a thousand nodes under the same load: memory and latencies stay flat; MINUTES=10
	cargo xtask soak --minutes $${MINUTES:-10}

generated: ## write docs/openapi.json and docs/errors.md from the code
	cargo xtask generate

clean: ## remove what was built
	cargo clean
