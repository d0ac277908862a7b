// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hands the loader's linker script to the linker, for the bare-metal target only.

fn main() {
    println!("cargo::rerun-if-changed=../../linker/chainloader.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}/../../linker/chainloader.ld", env!("CARGO_MANIFEST_DIR"));
        println!("cargo::rustc-link-arg-bins=--no-eh-frame-hdr");
    }
}
