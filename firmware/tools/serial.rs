// SPDX-License-Identifier: MIT OR Apache-2.0
//! A board at the other end of a serial line:
//!
//! ```text
//! serial monitor DEVICE          what it says, and what is typed; Ctrl-] leaves
//! serial load DEVICE IMAGE       sends an image to the chainloader (raspbootin's protocol), then the same
//! ```
//!
//! `BAUD` is 115200 if it is not set. Without a terminal the input ends at its end, and the output when the board's does.

#[path = "line.rs"]
mod line;

use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read, Write, stderr, stdin, stdout};
use std::process::ExitCode;
use std::thread;

use line::{open, stty};

/// Leaves the monitor, as it leaves telnet.
const CTRL_CLOSE: u8 = 0x1d;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["monitor", device] => open(device).and_then(monitor),
        ["load", device, image] => open(device).and_then(|port| load(port, image)).and_then(monitor),
        _ => {
            eprintln!("usage: serial monitor DEVICE | serial load DEVICE IMAGE");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serial: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The next byte; an error once the line is closed.
fn byte(port: &mut File) -> Result<u8, String> {
    let mut byte = [0];
    port.read_exact(&mut byte).map_err(|error| format!("the line is closed: {error}"))?;
    let [byte] = byte;
    Ok(byte)
}

/// Waits for the loader, and sends the image.
fn load(mut port: File, image: &str) -> Result<File, String> {
    const ASKS: usize = 3;
    let bytes = std::fs::read(image).map_err(|error| format!("{image}: {error}"))?;
    let size = u32::try_from(bytes.len()).map_err(|_| format!("{image} is too large"))?;
    eprintln!("serial: waiting for the loader: switch the board on");
    let mut asked = 0;
    while asked < ASKS {
        match byte(&mut port)? {
            3 => asked += 1,
            other => {
                // Whoever talks there now may be of interest.
                asked = 0;
                let _ = stdout().write_all(&[other]).and_then(|()| stdout().flush());
            }
        }
    }
    let write = |port: &mut File, bytes: &[u8]| port.write_all(bytes).map_err(|error| format!("sending: {error}"));
    write(&mut port, &size.to_le_bytes())?;
    // It may have asked more than once.
    let answer = loop {
        match byte(&mut port)? {
            3 => {}
            first => break [first, byte(&mut port)?],
        }
    };
    if answer != *b"OK" {
        return Err(format!("the loader refuses {size} bytes"));
    }
    let mut sent = 0;
    for chunk in bytes.chunks(4096) {
        write(&mut port, chunk)?;
        sent += chunk.len();
        bar(sent, bytes.len());
    }
    eprintln!();
    Ok(port)
}

fn bar(sent: usize, all: usize) {
    const WIDTH: usize = 50;
    let filled = sent * WIDTH / all.max(1);
    // Where nobody watches, the end is enough.
    if sent < all && !stderr().is_terminal() {
        return;
    }
    eprint!(
        "\r[{:<WIDTH$}] {:3} %, {} of {} KiB",
        "#".repeat(filled),
        sent * 100 / all.max(1),
        sent / 1024,
        all / 1024
    );
    let _ = stderr().flush();
}

/// Passes bytes in both directions.
fn monitor(port: File) -> Result<(), String> {
    let mut keys = port.try_clone().map_err(|error| error.to_string())?;
    let is_terminal = stdin().is_terminal();
    if is_terminal {
        eprintln!("serial: Ctrl-] leaves");
        stty(&["raw", "-echo"])?;
    }
    let shown = thread::spawn(move || show(port));
    let mut buffer = [0; 256];
    let mut input = stdin().lock();
    while let Ok(count) = input.read(&mut buffer) {
        let typed = buffer.get(..count).unwrap_or_default();
        let typed = typed.split(|byte| is_terminal && *byte == CTRL_CLOSE).next().unwrap_or_default();
        let is_end = typed.len() < count;
        if count == 0 || keys.write_all(typed).is_err() || is_end || shown.is_finished() {
            break;
        }
    }
    if is_terminal {
        return stty(&["sane"]);
    }
    let _ = shown.join();
    Ok(())
}

/// Shows what comes, until nothing can come any more.
fn show(mut port: File) {
    let mut buffer = [0; 4096];
    loop {
        match port.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                let text = buffer.get(..count).unwrap_or_default();
                if stdout().write_all(text).and_then(|()| stdout().flush()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
