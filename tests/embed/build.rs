// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links by `aarch64-rt`'s script, and says where the image lies.

fn main() {
    println!("cargo::rerun-if-changed=memory.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-Timage.ld");
        println!("cargo::rustc-link-arg-bins=-T{}/memory.ld", env!("CARGO_MANIFEST_DIR"));
    }
}
