// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top ELF [DEVICE]`: what the memory of a running target looks like, from the records that it sends with
//! `log=defmt top=MS`. Without a device it starts one in QEMU by `qemu.sh`, whose variables say which.

#[path = "line.rs"]
mod line;
#[path = "records.rs"]
mod records;
#[path = "top/samples.rs"]
mod samples;
#[path = "top/view.rs"]
mod view;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use defmt_decoder::Table;
use firmware::log::wire::{Listener, Splitter};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use samples::{Collector, Sample};
use view::Around;

/// Lines of the console that are kept.
const KEPT_LINES: usize = 100;
/// How long a key waits for the screen at most.
const TURN: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(elf) = arguments.next() else {
        eprintln!("usage: top ELF [DEVICE]");
        return ExitCode::from(2);
    };
    match run(&elf, arguments.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("top: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(elf: &OsStr, device: Option<OsString>) -> Result<(), String> {
    let table = records::table(elf).map_err(|error| format!("{}: {error}", elf.display()))?;
    let mut target = match device {
        Some(device) => Target::line(&device)?,
        None => Target::qemu(elf).map_err(|error| format!("QEMU: {error}"))?,
    };
    let shown = show(&mut ratatui::init(), &table, &mut target);
    ratatui::restore();
    target.end();
    shown.map_err(|error| error.to_string())
}

/// A target at the other end of a line.
struct Target {
    from: Receiver<Vec<u8>>,
    to: Box<dyn Write>,
    machine: Option<Child>,
}

impl Target {
    fn qemu(elf: &OsStr) -> io::Result<Self> {
        let append = std::env::var("APPEND").unwrap_or_default();
        let runner = concat!(env!("CARGO_MANIFEST_DIR"), "/qemu.sh");
        let mut machine = Command::new(runner)
            .arg(elf)
            .env("APPEND", format!("{append} log=defmt top=500"))
            .env("RAW", "1")
            .env("QUIET", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(to), Some(from)) = (machine.stdin.take(), machine.stdout.take()) else {
            return Err(io::Error::other("it has no console"));
        };
        Ok(Self { from: listen(from), to: Box::new(to), machine: Some(machine) })
    }

    fn line(device: &OsStr) -> Result<Self, String> {
        let to = line::open(&device.to_string_lossy())?;
        let from = to.try_clone().map_err(|error| format!("{}: {error}", device.display()))?;
        Ok(Self { from: listen(from), to: Box::new(to), machine: None })
    }

    /// Types a line.
    fn send(&mut self, line: &str) -> io::Result<()> {
        self.to.write_all(line.as_bytes())?;
        self.to.write_all(b"\r")?;
        self.to.flush()
    }

    /// Ends the machine, if it is one of ours: by its own command, and the pipe's end behind that.
    fn end(mut self) {
        let asked = self.send("exit 0");
        drop(self.to);
        if let Some(mut machine) = self.machine {
            for _ in 0..50 {
                if asked.is_err() || matches!(machine.try_wait(), Ok(Some(_))) {
                    break;
                }
                std::thread::sleep(TURN);
            }
            // Whether it has ended or not, and nobody is left to be told.
            let _ = machine.kill();
            let _ = machine.wait();
        }
    }
}

/// What comes, by a thread that waits for it.
fn listen(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer.get(..count).unwrap_or_default().to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// What came, understood.
struct Heard<'t> {
    table: &'t Table,
    collector: Collector,
    latest: Option<Sample>,
    before: Option<Sample>,
    around: Around,
    line: Vec<u8>,
}

impl Listener for Heard<'_> {
    fn text(&mut self, text: &[u8]) {
        for byte in text {
            match byte {
                b'\n' => {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                    let plain = line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
                    self.around.console.push(plain.chars().filter(|c| !c.is_control()).collect());
                    let extra = self.around.console.len().saturating_sub(KEPT_LINES);
                    self.around.console.drain(..extra);
                }
                _ => self.line.push(*byte),
            }
        }
    }

    fn frame(&mut self, frame: &[u8]) -> bool {
        records::decode(self.table, frame, |record| {
            if let Some(sample) = self.collector.take(&record.display_message().to_string()) {
                self.before = self.latest.replace(sample);
            }
        })
    }
}

/// Until Esc or Ctrl-C.
fn show(terminal: &mut DefaultTerminal, table: &Table, target: &mut Target) -> io::Result<()> {
    let mut splitter = Splitter::default();
    let (collector, around) = (Collector::default(), Around::default());
    let mut heard = Heard { table, collector, latest: None, before: None, around, line: Vec::new() };
    loop {
        loop {
            match target.from.try_recv() {
                Ok(bytes) => splitter.feed(&bytes, &mut heard),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => {
                    heard.around.is_over = true;
                    break;
                }
            }
        }
        terminal.draw(|frame| view::draw(frame, heard.latest.as_ref(), heard.before.as_ref(), &heard.around))?;
        if !event::poll(TURN)? {
            continue;
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Esc => return Ok(()),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
            KeyCode::Char(c) => heard.around.typed.push(c),
            KeyCode::Backspace => drop(heard.around.typed.pop()),
            KeyCode::Enter => target.send(&std::mem::take(&mut heard.around.typed))?,
            _ => {}
        }
    }
}
