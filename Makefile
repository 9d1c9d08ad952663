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

# How often each function ran under the benches, and in which order a start calls them: the optimiser
# makes small what did not run, and Rust's own linker puts what a start needs in a row. It fits the
# compiler that it was counted with alone. The file's name says what is in it, because cargo does not look.
# docs/decisions/profile.md
PACKED_PROFILE := benches/profile/ebbtide.profdata.xz
PROFILE_FITS := x86_64-unknown-linux-gnu rustc $(shell cat benches/profile/rustc)
ifeq ($(TARGET) $(wordlist 1,2,$(shell rustc --version)),$(PROFILE_FITS))
PROFILE := $(TARGET_DIR)/profile/$(shell sha256sum $(PACKED_PROFILE) | cut -c 1-12).profdata
PROFILE_RUSTFLAGS := -C profile-use=$(PROFILE) -C link-arg=-Wl,--irpgo-profile=$(PROFILE),--bp-startup-sort=function
endif

# Half a file is none.
.DELETE_ON_ERROR:

.PHONY: demo test compare needs check static profile

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
	  cargo test --locked --workspace --doc; \
	  cargo nextest run --locked --workspace --no-fail-fast; \
	else \
	  cargo test --locked --workspace --no-fail-fast; \
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
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items

static: $(PROFILE)
	RUSTFLAGS="$(STATIC_RUSTFLAGS) $(PROFILE_RUSTFLAGS)" \
	  cargo build --locked --release --bin ebbtide --target $(TARGET)
	@echo "$(STATIC_BIN)"

$(PROFILE): $(PACKED_PROFILE)
	mkdir -p $(@D)
	xz --decompress --stdout $< > $@

# Writes the profile anew: for a release, and when the data path, a dependency or the compiler has changed.
# The benches drive a build that counts, and what each process counted is added up; a few starts are enough
# to tell their order.
COUNTED := $(TARGET_DIR)/counted
PROFDATA := $(shell rustc --print target-libdir)/../bin/llvm-profdata
profile: needs
	test -x "$(PROFDATA)" || rustup component add llvm-tools
	RUSTFLAGS="$(STATIC_RUSTFLAGS) -C profile-generate -C llvm-args=-pgo-temporal-instrumentation" \
	  cargo build --locked --release --bin ebbtide --target $(TARGET) --target-dir $(COUNTED)
	rm -rf $(COUNTED)/counts
	export EBBTIDE_BIN="$(COUNTED)/$(TARGET)/release/ebbtide"; \
	export LLVM_PROFILE_FILE="$(COUNTED)/counts/%p.profraw" PATH="$(TARGET_DIR)/python/bin:$$PATH"; \
	export CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16; \
	cargo bench --locked --bench compare -- --peers ebbtide,ebbtide-reuse --rounds 1 --out $(COUNTED)/compare; \
	ROUNDS=3 cargo bench --locked --bench tracker; \
	SECONDS=3 cargo bench --locked --bench controller
	mkdir -p $(dir $(PACKED_PROFILE))
	$(PROFDATA) merge --temporal-profile-trace-reservoir-size=8 -o $(COUNTED)/ebbtide.profdata $(COUNTED)/counts
	xz -9 --stdout $(COUNTED)/ebbtide.profdata > $(PACKED_PROFILE)
	rustc --version | cut -d ' ' -f 2 > benches/profile/rustc
