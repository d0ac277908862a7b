// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links the bare-metal image where QEMU puts it.

fn main() {
    println!("cargo::rerun-if-changed=bare.ld");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        println!("cargo::rustc-link-arg-bins=-T{}/bare.ld", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    }
}
