# SPDX-License-Identifier: Apache-2.0
# The front door. The build itself is CMake's (CMakePresets.json); what is longer than a line lies
# in scripts/.
PREFIX ?= /usr/local
LIBDIR ?= lib
FUZZ_MINUTES ?= 1
HOURS ?= 1
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: all programs deps release demo test bench fuzz simulate format tidy install uninstall clean

all: programs

# programs: what `make install` installs.
programs:
	@scripts/install-deps build
	@cmake --preset programs >/dev/null
	@cmake --build --preset programs

# deps: installs missing Debian packages; silent and without network when none is missing.
deps:
	@scripts/install-deps

# release: programs, tests and benchmarks.
release: deps
	@cmake --preset release >/dev/null
	@cmake --build --preset release

# demo: two namespaces, pspd in each, 256 MiB over PSP in all versions and both families.
demo:
	@scripts/install-deps build run
	@cmake --preset programs >/dev/null
	@cmake --build --preset demo
	@$(SUDO) scripts/demo

# test: everything that CI runs. Its last line is "N passed, N failed, N skipped".
test: deps
	@scripts/test

# bench: the end-to-end benchmark; writes its figures to docs/.
bench: release
	@$(SUDO) bench/e2e/run

# fuzz: every fuzz target for FUZZ_MINUTES minutes.
fuzz: deps
	@FUZZ_MINUTES=$(FUZZ_MINUTES) scripts/fuzz

# simulate: the simulator (docs/simulation.md) for HOURS hours, from another seed each time.
simulate: release
	@build/release/bin/psp-sim --hours $(HOURS) --seed $$(date +%s)000000 --coverage --shrink

format:
	@scripts/check-format --fix

tidy: release
	@scripts/check-tidy --all

# install, uninstall: what was built, under $(DESTDIR)$(PREFIX), libraries in LIBDIR there
# (libpsp-genl.so, which pspctl run loads, always in lib). Nothing
# is built and no package installed: run make first.
install uninstall:
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" LIBDIR="$(LIBDIR)" scripts/$@

clean:
	@rm -rf build
