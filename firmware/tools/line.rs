// SPDX-License-Identifier: MIT OR Apache-2.0
//! A serial line, set up by stty. `BAUD` is 115200 if it is not set.

use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::process::{Command, Stdio};

/// Opens a port and makes it pass bytes as they are.
pub(crate) fn open(device: &str) -> Result<File, String> {
    let port = OpenOptions::new().read(true).write(true).open(device).map_err(|error| format!("{device}: {error}"))?;
    if !port.is_terminal() {
        return Err(format!("{device} is no serial line"));
    }
    // Empty, too, is not set: so it comes from a makefile that hands it on.
    let baud = std::env::var("BAUD").ok().filter(|baud| !baud.is_empty()).unwrap_or_else(|| "115200".into());
    stty(&["-F", device, &baud, "raw", "-echo", "-echoe", "-echok", "clocal", "-crtscts"])?;
    Ok(port)
}

/// Changes what a terminal does.
pub(crate) fn stty(arguments: &[&str]) -> Result<(), String> {
    let status = Command::new("stty").args(arguments).stdin(Stdio::inherit()).status();
    let status = status.map_err(|error| format!("stty: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("stty {} failed", arguments.join(" "))) }
}
