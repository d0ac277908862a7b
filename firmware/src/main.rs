// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Quire firmware: memory and a console. On the host, `cargo run` starts it in QEMU.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
firmware::entry!(firmware::console::run);

/// Builds this very program for the board and hands it to the runner of `.cargo/config.toml`.
#[cfg(not(target_os = "none"))]
fn main() -> std::process::ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["run", "--quiet", "--release", "--package", "firmware", "--target", firmware::TARGET];
    match std::process::Command::new(cargo).args(arguments).status() {
        Ok(status) => status.code().map_or(std::process::ExitCode::FAILURE, |code| (code as u8).into()),
        Err(error) => {
            eprintln!("firmware: cannot start cargo: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
