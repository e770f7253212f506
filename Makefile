# SPDX-License-Identifier: Apache-2.0
# The front door. The build itself is CMake's (CMakePresets.json); what is longer than a line lies
# in scripts/.
PREFIX ?= /usr/local
FUZZ_MINUTES ?= 1
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
RELEASE := build/release

.PHONY: all release deps demo test bench fuzz format tidy install clean

all: release

# deps: installs missing Debian packages; silent and without network when none is missing.
deps:
	@scripts/install-deps

release: deps
	@cmake --preset release >/dev/null
	@cmake --build --preset release

# demo: two namespaces, pspd in each, 256 MiB over PSP in all versions and both families.
demo: release
	@$(SUDO) scripts/demo

# test: everything that CI runs. Its last line is "N passed, N failed, N skipped".
test: deps
	@scripts/test

# bench: the end-to-end benchmark; writes docs/bench-e2e.md and docs/bench-e2e.svg.
bench: release
	@$(SUDO) bench/e2e/run

# fuzz: every fuzz target for FUZZ_MINUTES minutes.
fuzz: deps
	@FUZZ_MINUTES=$(FUZZ_MINUTES) scripts/fuzz

format:
	@scripts/check-format --fix

tidy: release
	@scripts/check-tidy --all

# install: programs, manual pages, the C header and the systemd unit under $(DESTDIR)$(PREFIX).
install: release
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" scripts/install

clean:
	@rm -rf build
