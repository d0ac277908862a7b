// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hands the image's linker script to the linker, for the bare-metal target only.
//!
//! Here and not in `.cargo/config.toml`, whose flags a `RUSTFLAGS` in the environment would replace.

fn main() {
    println!("cargo::rerun-if-changed=../linker/image.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../linker/image.ld");
        println!("cargo::rustc-link-arg-tests=-T{script}");
        // Not linked as one program, they have more functions than the image.
        let text_per_symbols = if std::env::var("PROFILE").as_deref() == Ok("release") { 14 } else { 11 };
        println!("cargo::rustc-link-arg-tests=--defsym=TEXT_PER_SYMBOLS={text_per_symbols}");
        println!("cargo::rustc-link-arg-tests=--no-eh-frame-hdr");
    }
}
