// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the firmware would make of a device tree, without booting it.
//!
//! `cargo run -q -p bsp --example memmap -- [--human] FILE.dtb...` prints a JSON line (or a table) for each file.
//! The status is 1 if any file is in error, 2 if there is none. It runs the very code that the firmware runs.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bsp::console::choose_console;
use bsp::info::{BootInfo, Conduit, LedLine, RawRange};

fn main() -> ExitCode {
    let mut human = false;
    let mut files = Vec::new();
    for argument in std::env::args_os().skip(1) {
        if argument == "--human" {
            human = true;
        } else {
            files.push(argument);
        }
    }
    if files.is_empty() {
        eprintln!("usage: memmap [--human] FILE.dtb...");
        return ExitCode::from(2);
    }
    let mut info = Box::new(BootInfo::new());
    let mut failed = false;
    for file in &files {
        let path = Path::new(file);
        let error = read(path, &mut info).err();
        failed |= error.is_some();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let text = if human { table(&name, &info, error.as_deref()) } else { json(&name, &info, error.as_deref()) };
        println!("{text}");
    }
    ExitCode::from(u8::from(failed))
}

/// On an error, `info` is left empty.
fn read(path: &Path, info: &mut BootInfo) -> Result<(), String> {
    *info = BootInfo::new();
    let blob = std::fs::read(path).map_err(|error| error.to_string())?;
    if let Err(error) = bsp::dt::read(&blob, info) {
        *info = BootInfo::new();
        return Err(error.to_string());
    }
    if info.is_truncated() {
        return Err(format!("{} banks or reservations too many", info.lost_ranges));
    }
    Ok(())
}

fn json(file: &str, info: &BootInfo, error: Option<&str>) -> String {
    let memory: Vec<_> = info.memory.iter().map(|bank| format!("[{},{}]", bank.range.base, bank.range.size)).collect();
    let reserved = info.reserved.iter().map(|entry| {
        let RawRange { base, size } = entry.range;
        format!("[{base},{size},{}]", quoted(entry.kind.as_str()))
    });
    let reserved: Vec<_> = reserved.collect();
    let console = choose_console(info, &info.bootargs);
    format!(
        r#"{{"file":{},"memory":[{}],"reserved":[{}],"cpus":{},"psci":{},"stdout":{},"console":{},"dma_limit":{},"error":{}}}"#,
        quoted(file),
        memory.join(","),
        reserved.join(","),
        info.nr_cpus,
        or_null(psci(info).map(quoted)),
        or_null(info.stdout.as_deref().map(quoted)),
        or_null(console.map(|uart| format!(r#"{{"compatible":{},"base":{}}}"#, quoted(uart.compatible), uart.base))),
        or_null(info.dma_limit.map(|limit| limit.to_string())),
        or_null(error.map(quoted)),
    )
}

fn psci(info: &BootInfo) -> Option<&'static str> {
    info.psci.map(|psci| match psci.conduit {
        Conduit::Smc => "smc",
        Conduit::Hvc => "hvc",
    })
}

fn or_null(value: Option<String>) -> String {
    value.unwrap_or_else(|| "null".to_owned())
}

/// A JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut json = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => json.extend(['\\', char]),
            control if control < ' ' => json += &format!("\\u{:04x}", control as u32),
            other => json.push(other),
        }
    }
    json + "\""
}

fn table(file: &str, info: &BootInfo, error: Option<&str>) -> String {
    let mut text = format!("{file}: {}\n", if info.model.is_empty() { "(no model)" } else { &info.model });
    let mut line = |what: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {what:<10} {value}");
    };
    if let Some(error) = error {
        line("ERROR", error.to_owned());
    }
    for bank in &info.memory {
        line("memory", format!("{} node {}", range(bank.range), bank.node));
    }
    for entry in &info.reserved {
        line("reserved", format!("{} {} {}", range(entry.range), entry.name, entry.kind.as_str()));
    }
    for wish in &info.dynamic {
        line("to place", format!("{:#x} bytes {} {}", wish.size, wish.name, wish.kind.as_str()));
    }
    line("cpus", info.nr_cpus.to_string());
    line("psci", psci(info).unwrap_or("none").to_owned());
    line("stdout", info.stdout.as_deref().unwrap_or("none").to_owned());
    let console = choose_console(info, &info.bootargs);
    line("console", console.map_or("none".to_owned(), |uart| format!("{} at {:#x}", uart.compatible, uart.base)));
    if let Some(mailbox) = info.mailbox {
        line("mailbox", format!("{:#x}, sees RAM at {:#x}", mailbox.base, mailbox.dma.bus));
    }
    if let Some(led) = info.act_led {
        let line_name = match led.line {
            LedLine::Pin(pin) => format!("pin {pin}"),
            LedLine::Firmware(number) => format!("line {number} of the firmware's expander"),
        };
        line("led", line_name + if led.active_low { ", lit when low" } else { "" });
    }
    for uart in &info.uarts {
        let pins = uart.pins.iter().flatten().map(|pin| format!("{}: function {}", pin.pin, pin.function));
        let pins: Vec<_> = pins.collect();
        if !pins.is_empty() {
            line("pins", format!("{} {}", uart.name, pins.join(", ")));
        }
    }
    line("dma limit", info.dma_limit.map_or("none".to_owned(), |limit| format!("{limit:#x}")));
    for problem in &info.problems {
        line("odd", problem.to_string());
    }
    text
}

fn range(RawRange { base, size }: RawRange) -> String {
    format!("{base:#014x} + {size:#012x} ({} KiB)", size / 1024)
}
