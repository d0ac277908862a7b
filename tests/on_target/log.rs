// SPDX-License-Identifier: MIT OR Apache-2.0
//! The log: what is kept, and that nobody who logs can wait for themselves.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::fmt;

    use firmware::boot::{Machine, uptime_ns};
    use firmware::log::ring::{Cursor, MAX_TEXT};
    use firmware::log::{self, Level, Threshold};
    use firmware::{pr_debug, pr_err, pr_info, println};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("the log begins with the first line of the boot", the_log_begins_with_the_first_line),
                ("times go up and lie in the past", times_go_up),
                ("every level is kept, shown or not", every_level_is_kept),
                ("a message inside a message is lost, and the loss is logged", a_message_inside_a_message_is_lost),
                ("a record inside a record is left out, and that is logged", a_record_inside_a_record_is_left_out),
                ("a record that is too long is left out", a_record_that_is_too_long_is_left_out),
                ("a flood pushes out the oldest and nothing else", a_flood_pushes_out_the_oldest),
            ],
        )
    }

    /// Looks at each message of the log; tells whether one of them is it.
    fn any(mut is_it: impl FnMut(u64, Level, &str) -> bool) -> bool {
        let (mut cursor, mut buffer) = (Cursor::default(), [0; MAX_TEXT]);
        while let Some(record) = log::read(&mut cursor, &mut buffer) {
            if is_it(record.time_ns, record.level, record.text) {
                return true;
            }
        }
        false
    }

    fn the_log_begins_with_the_first_line(_: &'static Machine) -> Result<(), &'static str> {
        let mut is_first = true;
        let found = any(|_, _, text| core::mem::take(&mut is_first) && text.starts_with("Quire "));
        check(found, "the first message is not the banner")
    }

    fn times_go_up(_: &'static Machine) -> Result<(), &'static str> {
        let (mut last, now) = (0, uptime_ns());
        let goes_back = any(|time, _, _| time > now || core::mem::replace(&mut last, time) > time);
        check(!goes_back && last > 0, "a time goes back, or lies in the future")
    }

    fn every_level_is_kept(_: &'static Machine) -> Result<(), &'static str> {
        let before = log::threshold();
        log::set_threshold(Threshold::MINIMUM);
        pr_err!("not shown {}", 1);
        pr_debug!("not shown {}", 2);
        log::set_threshold(before);
        check(any(|_, level, text| level == Level::Err && text == "not shown 1"), "the error is not there")?;
        check(any(|_, level, text| level == Level::Debug && text == "not shown 2"), "the debug message is not there")
    }

    /// Prints while it is printed.
    struct Talkative;

    impl fmt::Display for Talkative {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            println!("the inner message");
            pr_info!("the other inner message");
            f.write_str("the outer message")
        }
    }

    fn a_message_inside_a_message_is_lost(_: &'static Machine) -> Result<(), &'static str> {
        println!("{}, whole", Talkative);
        println!("the next message");
        check(any(|_, _, text| text == "the outer message, whole"), "the outer message is not whole")?;
        check(!any(|_, _, text| text.contains("inner message")), "the inner message is there")?;
        check(any(|_, level, text| level == Level::Warn && text.starts_with("log: 2 messages")), "no word of the loss")
    }

    /// Records while it is recorded.
    struct Nested;

    impl defmt::Format for Nested {
        fn format(&self, f: defmt::Formatter<'_>) {
            defmt::info!("the inner record");
            defmt::write!(f, "the outer record");
        }
    }

    fn a_record_inside_a_record_is_left_out(_: &'static Machine) -> Result<(), &'static str> {
        defmt::info!("{}", Nested);
        check(any(|_, level, text| level == Level::Warn && text.starts_with("log: 1 records")), "no word of it")?;
        defmt::info!("the next record");
        check(!any(|_, _, text| text.starts_with("log: 2 records")), "the next one is left out too")
    }

    fn a_record_that_is_too_long_is_left_out(_: &'static Machine) -> Result<(), &'static str> {
        log::clear();
        defmt::info!("{=[u8]}", [0x55; 4000]);
        check(any(|_, _, text| text.starts_with("log: 1 records too long")), "no word of it")
    }

    fn a_flood_pushes_out_the_oldest(_: &'static Machine) -> Result<(), &'static str> {
        const COUNT: u32 = 5000;
        for number in 0..COUNT {
            pr_debug!("{number}");
        }
        let (mut next, mut seen) = (None, 0);
        let gap = any(|_, _, text| {
            let number = text.parse::<u32>().ok();
            seen += 1;
            number != next.replace(number.unwrap_or(0) + 1).or(number)
        });
        check(!gap && next == Some(COUNT), "a message is missing")?;
        check(seen > 1000 && seen < COUNT, "too few or too many are kept")
    }
}
