// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes from a terminal: the line editor, what its lines are split into, grep and the pager.
#![no_main]

use std::fmt;

use firmware::line::{ASK_SIZE, CAPACITY, CLEAR_SCREEN, Event, Line};
use firmware::pipe::{Filter, Grep, Pager, split, words};
use libfuzzer_sys::fuzz_target;

/// A terminal that takes only what an editor has reason to send, and knows the cursor's column.
#[derive(Default)]
struct Terminal {
    column: usize,
}

impl fmt::Write for Terminal {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text == CLEAR_SCREEN {
            self.column = 0;
        } else if text != ASK_SIZE {
            for char in text.chars() {
                match char {
                    '\x07' => {}
                    '\x08' => self.column = self.column.checked_sub(1).expect("back over the start of the line"),
                    '\n' => self.column = 0,
                    ' '..='~' => self.column += 1,
                    other => panic!("{other:?} was sent"),
                }
            }
        }
        Ok(())
    }
}

const PROMPT: &str = "quire> ";

fn candidates(before: &str, visit: &mut dyn FnMut(&str)) {
    ["meminfo", "memory", "free", "frost", "/proc/meminfo", before].into_iter().for_each(visit);
}

fuzz_target!(|bytes: &[u8]| {
    let (mut line, mut terminal, mut pager) = (Line::new(PROMPT, candidates), Terminal::default(), None);
    let mut filter = Filter::new();
    line.show(&mut terminal).unwrap();
    for byte in bytes {
        match line.feed(*byte, &mut terminal).unwrap() {
            Event::Nothing => {}
            Event::Size(size) => pager = Some(Pager::new(size)),
            Event::Cancelled => line.show(&mut terminal).unwrap(),
            Event::Done => {
                assert_eq!(terminal.column, 0);
                run(line.take().as_str(), &mut filter, &mut pager);
                line.show(&mut terminal).unwrap();
            }
        }
        let text = line.text();
        assert!(text.as_bytes().len() <= CAPACITY && text.cursor() <= text.as_bytes().len());
        assert!(text.as_bytes().iter().all(|byte| (b' '..=b'~').contains(byte)));
        assert!(terminal.column >= PROMPT.len() && terminal.column <= PROMPT.len() + text.cursor());
    }
});

/// What the console does with a line, up to the commands; each word is what one writes.
fn run(line: &str, filter: &mut Filter, pager: &mut Option<Pager>) {
    for command in split(line, b';') {
        let mut parts = split(command, b'|');
        let command = parts.next().expect("there is a first part");
        let nr_greps = parts.filter(|part| Grep::parse(part).and_then(|grep| filter.push(grep)).is_ok()).count();
        assert_eq!(filter.len(), nr_greps);
        let mut out = String::new();
        words(command).for_each(|word| filter.write(&format!("{word}\n"), &mut out).unwrap());
        filter.flush(&mut out).unwrap();
        filter.truncate(0);
        assert!(out.lines().all(|line| words(command).any(|word| word == line)));
        let mut rest = out.as_str();
        while let Some(pager) = pager.as_mut().filter(|_| !rest.is_empty()) {
            let (fits, behind) = pager.fit(rest);
            assert_eq!(fits.len() + behind.len(), rest.len());
            rest = behind;
            pager.next_page();
            assert!(!fits.is_empty() || !behind.is_empty());
        }
    }
}
