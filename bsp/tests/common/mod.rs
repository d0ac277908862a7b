// SPDX-License-Identifier: MIT OR Apache-2.0
//! Fixtures for the tests of the tree reader: sources in `tests/fixtures`, compiled by `dtc` when they are asked for.
#![expect(clippy::panic, reason = "a test helper fails loudly")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The blob of the fixture `name`.
pub(crate) fn blob(name: &str) -> Vec<u8> {
    compile(&directory().join(format!("{name}.dts")))
}

fn compile(source: &Path) -> Vec<u8> {
    let output = Command::new("dtc").args(["-q", "-I", "dts", "-O", "dtb"]).arg(source).output();
    let output = output.unwrap_or_else(|error| {
        panic!("cannot run dtc ({error}): these tests need it (`make setup`, or apt-get install device-tree-compiler)")
    });
    assert!(output.status.success(), "dtc {}: {}", source.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}
