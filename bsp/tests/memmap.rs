// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool `memmap`, run as its users run it.
#![expect(clippy::unwrap_used, reason = "test helpers fail loudly")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::blob;

/// A file of these bytes in a directory of the test's own.
fn file(test: &str, name: &str, bytes: &[u8]) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn memmap(arguments: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--package", "bsp", "--example", "memmap", "--"]);
    command.args(arguments).output().unwrap()
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn a_line_of_json_tells_what_the_firmware_would_make_of_a_tree() {
    let pi = file("json", "rpi4-8gb.dtb", &blob("rpi4-8gb"));
    let reserved = file("json", "reserved.dtb", &blob("reserved"));
    let output = memmap(&[&pi, &reserved]);
    let expected = concat!(
        r#"{"file":"rpi4-8gb.dtb","memory":[[0,994050048],[1073741824,3154116608],[4294967296,2147483648],"#,
        r#"[6442450944,2147483648]],"reserved":[[0,4096,"memreserve"]],"cpus":4,"psci":null,"#,
        r#""stdout":"serial1:115200n8","console":{"compatible":"brcm,bcm2835-aux-uart","base":4263596096},"#,
        r#""dma_limit":1073741824,"error":null}"#,
        "\n",
        r#"{"file":"reserved.dtb","memory":[[1073741824,402653184],[1543503872,67108864]],"#,
        r#""reserved":[[1207959552,16384,"memreserve"],[1241513984,4097,"memreserve"],"#,
        r#"[1342177280,2097152,"no-map"],[1358954496,4096,"no-map"],[1375731712,1048576,"reusable"],"#,
        r#"[1392508928,2048,""],[1409286144,4096,"no-map"]],"cpus":1,"psci":"hvc","stdout":"/pl011@9000000","#,
        r#""console":{"compatible":"arm,pl011","base":150994944},"dma_limit":null,"error":null}"#,
        "\n"
    );
    assert_eq!(text(&output), expected);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_file_in_error_does_not_hide_the_others() {
    let cut = file("errors", "cut \"here\".dtb", &blob("numa")[..100]);
    let absent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("errors/absent.dtb");
    let good = file("errors", "numa.dtb", &blob("numa"));
    let output = memmap(&[&cut, &absent, &good]);
    let lines: Vec<_> = text(&output).lines().collect();
    let nothing = r#""memory":[],"reserved":[],"cpus":0,"psci":null,"stdout":null,"console":null,"dma_limit":null,"#;
    let [cut, absent, good] = lines[..] else { panic!("{lines:?}") };
    assert!(
        cut.starts_with(&format!(r#"{{"file":"cut \"here\".dtb",{nothing}"error":"truncated: 0x64 bytes"#)),
        "{cut}"
    );
    assert!(absent.starts_with(&format!(r#"{{"file":"absent.dtb",{nothing}"error":"No such file"#)), "{absent}");
    assert!(good.starts_with(r#"{"file":"numa.dtb","memory":[[1073741824,268435456],"#), "{good}");
    assert!(good.ends_with(r#""error":null}"#), "{good}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn people_get_a_table() {
    let tree = file("table", "console.dtb", &blob("console"));
    let output = memmap(&[Path::new("--human"), &tree]);
    assert_eq!(output.status.code(), Some(0));
    for line in [
        "console.dtb: fixture,console",
        "  memory     0x000080000000 + 0x0010000000 (262144 KiB) node 0",
        "  cpus       3",
        "  psci       smc",
        "  stdout     serial0:9600e7",
        "  console    arm,pl011 at 0x120400100",
        "  dma limit  0x20000000",
        "  odd        serial@8: its address does not lead to the CPU: ignored",
    ] {
        assert!(text(&output).lines().any(|found| found == line), "no {line:?} in:\n{}", text(&output));
    }
}

#[test]
fn without_a_file_there_is_a_hint() {
    let output = memmap(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("usage: memmap"));
}
