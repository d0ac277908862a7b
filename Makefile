# SPDX-License-Identifier: MIT OR Apache-2.0
# The front door. `make help` lists what there is; every target does its own set-up.

SHELL := /bin/bash
TARGET := aarch64-unknown-none-softfloat
SETUP := firmware/tools/setup.sh

# What firmware/tools/qemu.sh reads, from the command line: make run BOARD=rpi4 RUN="meminfo; exit"
export BOARD DTB LOADER MEM SMP CPU GIC EL2 APPEND RUN ICOUNT QEMU_ARGS TIMEOUT
export LOG LOG_UART LOG_FILE FIRMWARE_DIR BAUD

.DEFAULT_GOAL := help
.PHONY: help setup run vng log top report gdb image flash chainboot monitor bench bench-host test test-quick soak check test-host test-miri test-fuzz test-target test-trees mutants planted doc clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20
	@echo
	@sed -n 's/^#   /  /p' firmware/tools/qemu.sh

setup: ## Install what is missing to build and run (says what)
	@$(SETUP) run

run: ## Boot in QEMU: BOARD=virt|rpi4|rpi3 MEM=512M RUN="meminfo; exit" ...
	@$(SETUP) run
	@cargo run --quiet --profile $(or $(PROFILE),release) --package firmware --target $(TARGET)

vng: ## As virtme-ng: boot, run the tests that APPEND names, end with their status: APPEND='test_vmalloc.run_test_mask=0xFFFF'
	@$(SETUP) run
	@RUN="$${RUN:+$$RUN; }exit" cargo run --quiet --release --package firmware --target $(TARGET)

log: ## Boot with structured records and show them: LOG_UART=1 ...; CAPTURE=file decodes an earlier LOG_FILE
	@$(SETUP) run
	@cargo build --quiet --release --package firmware --target $(TARGET)
	@if [ -n "$(CAPTURE)" ]; then firmware/tools/decode-log <"$(CAPTURE)"; \
	else LOG=1 cargo run --quiet --release --package firmware --target $(TARGET); fi

top: ## Watch the memory of a machine in QEMU, live: zones, caches, vmalloc, TLB, what is free where; DEV=/dev/ttyUSB0 for a board
	@$(SETUP) run
	@cargo build --quiet --release --package firmware --target $(TARGET)
	@cargo run --quiet --package tools --features top --bin top -- target/$(TARGET)/release/firmware $(DEV)

report: ## Measure, and write target/report/index.html: Linux and peers beside us, latencies, a churn, CPUs, overhead, booting (ten minutes; HOST=0 without the host)
	@$(SETUP) run
	@$(if $(filter 0,$(HOST)),,$(MAKE) --no-print-directory bench-host QUICK=1 >/dev/null)
	@cargo build --quiet --release --package firmware --target $(TARGET)
	@firmware/tools/report.sh target/$(TARGET)/release/firmware

gdb: ## A machine in QEMU under gdb, with `quire buddy|slab|vmalloc|tables|bt`; ATTACH=localhost:1234 to one that runs; PROFILE=gdb for optimised code
	@$(SETUP) gdb
	@cargo build --quiet --profile $(or $(PROFILE),dev) --package firmware --target $(TARGET)
	@firmware/tools/gdb.sh $(if $(ATTACH),attach,start) target/$(TARGET)/$(patsubst dev,debug,$(or $(PROFILE),dev))/firmware $(ATTACH)

image: ## Build target/kernel8.img, for QEMU, U-Boot and the Pi; with FIRMWARE_DIR= also target/rpi4/sdcard.img
	@$(SETUP) $(if $(FIRMWARE_DIR),card,run)
	@cargo build --quiet --release --package firmware --package chainloader --target $(TARGET)
	@firmware/tools/qemu.sh --image target/$(TARGET)/release/firmware target/kernel8.img
	@firmware/tools/flat.sh target/$(TARGET)/release/chainloader target/chainloader.img
	@firmware/tools/sdcard.sh files target/kernel8.img target/chainloader.img
	@$(if $(FIRMWARE_DIR),firmware/tools/sdcard.sh image)

flash: ## Write the card's image: DEV=/dev/..., removable, not mounted; asks first
	@firmware/tools/sdcard.sh flash "$(DEV)"

chainboot: ## Send target/kernel8.img to a Pi that runs the chainloader, and show what it says: DEV=/dev/ttyUSB0
	@$(if $(DEV),,echo "which serial line? DEV=/dev/ttyUSB0"; exit 2)
	@$(MAKE) --no-print-directory image >/dev/null
	@firmware/tools/serial load "$(DEV)" target/kernel8.img

monitor: ## What a board says on a serial line, and what is typed: DEV=/dev/ttyUSB0 BAUD=115200; Ctrl-] leaves
	@$(if $(DEV),,echo "which serial line? DEV=/dev/ttyUSB0"; exit 2)
	@firmware/tools/serial monitor "$(DEV)"

bench: ## Instructions per operation, beside Linux: BENCH=pg_hot SMP=1
	@$(SETUP) run
	@cargo build --quiet --release --package firmware --target $(TARGET)
	@firmware/tools/bench.sh target/$(TARGET)/release/firmware $(BENCH)

bench-host: ## The same on this host beside Rust's other allocators: QUICK=1, PEERS="talc rlsf"
	@$(SETUP) run
	@cd tests/bench && RUSTFLAGS=-Crelocation-model=static \
		cargo build --quiet --release --bin bare --target $(TARGET) --target-dir $(CURDIR)/target/bench-host
	@cd tests/bench && cargo build --quiet --release --bin host --target-dir $(CURDIR)/target/bench-host
	@target/bench-host/release/host run target/bench-host/$(TARGET)/release/bare target/bench/host.jsonl \
		$(if $(QUICK),quick) $(PEERS)

test: ## All tests: style, host, Miri, fuzz, on target
	@$(SETUP) test
	@tests/all.sh

test-quick: ## Style, host tests and four machines: a few minutes
	@$(SETUP) run
	@tests/all.sh check docs host quick

soak: ## Eight CPUs, everything at once, while keys are typed: SOAK_SECONDS=600
	@$(SETUP) run
	@tests/all.sh soak

check: ## Format, clippy and rustdoc, all as errors
	@$(SETUP) run
	@tests/all.sh check docs

test-host: ## Unit and property tests on this machine
	@$(SETUP) run
	@tests/all.sh host

test-miri: ## The memory core's tests under Miri
	@$(SETUP) test
	@tests/all.sh miri

test-fuzz: ## Fuzz the parsers: FUZZ_SECONDS=20 each
	@$(SETUP) test
	@tests/all.sh fuzz

test-target: ## Tests on every emulated machine
	@$(SETUP) target
	@tests/all.sh target

mutants: ## Take out each barrier, invalidate and break in turn: every mutant fails a test
	@$(SETUP) run
	@tests/mutants.sh

planted: ## Plant a lost merge, a missing invalidate and a double free in turn: torture finds each
	@$(SETUP) run
	@tests/planted.sh

test-trees: ## Read every device tree of Debian's arm64 kernel
	@$(SETUP) run
	@tests/all.sh trees

doc: ## API documentation: target/doc/mm/index.html
	@cargo doc --quiet --no-deps

clean: ## Remove what was built (unpacked device trees stay)
	@cargo clean --quiet --profile dev; cargo clean --quiet --release; rm -rf target/$(TARGET) target/rpi4 target/*.img
