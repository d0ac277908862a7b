#!/usr/bin/env bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# flat.sh ELF FILE: the bytes that are loaded, for what is no Quire (mkimage makes Quire's image, with its names).
set -euo pipefail
objcopy=$(find "$(rustc --print sysroot)" -name llvm-objcopy | head -n 1)
[ -n "$objcopy" ] || { echo "flat.sh: no llvm-objcopy: rustup component add llvm-tools" >&2; exit 1; }
exec "$objcopy" -O binary "$1" "$2"
