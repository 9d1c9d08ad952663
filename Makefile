# Three commands for people: `make demo`, `make test` and `make compare`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# The product is one static binary: docs/decisions/static-glibc.md. A target given by name keeps the
# flag from build scripts and procedural macros, which can't be static.
TARGET := $(shell uname -m)-unknown-linux-gnu
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
STATIC_BIN := $(TARGET_DIR)/$(TARGET)/release/ebbtide

# The Dockerfile builds with this too. Packed relocations take a sixteenth of the room of plain ones,
# which a static program reads one and all when it starts, and so keeps in memory.
STATIC_RUSTFLAGS := -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs

.PHONY: demo test compare needs check static

# The main job, to look at, on embedded defaults.
demo:
	cargo run --release -- demo

# Everything that must hold before a change is merged. The tests run the static release build, as
# users do. Every bench runs once, briefly, to see that it works.
test: needs check static
	export EBBTIDE_BIN="$(STATIC_BIN)" EBBTIDE_STATIC_BIN="$(STATIC_BIN)"; \
	export PATH="$(TARGET_DIR)/python/bin:$$PATH"; \
	cargo bench --locked --profile dev --bench compare --bench controller --bench steps --bench tracker \
	  -- --brief >/dev/null; \
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo test --locked --doc; \
	  cargo nextest run --locked --no-fail-fast; \
	else \
	  cargo test --locked --no-fail-fast; \
	fi

# Ebbtide beside other proxies: benches/README.md. For example COMPARE="--only tcp-echo --rounds 9", or
# COMPARE=--help. The program that is measured is the static one, so the bench itself is built the quick way.
compare: needs static
	EBBTIDE_BIN="$(STATIC_BIN)" CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
	  cargo bench --locked --bench compare -- $(COMPARE)

# The peers that the tests talk to, and those that the benches compare with.
needs:
	tests/install.sh

# Format, lints and docs. Warnings are errors here and nowhere else.
check:
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

static:
	RUSTFLAGS="$(STATIC_RUSTFLAGS)" \
	  cargo build --locked --release --bin ebbtide --target $(TARGET)
	@echo "$(STATIC_BIN)"
