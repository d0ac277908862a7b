// SPDX-License-Identifier: MIT OR Apache-2.0
//! Results as Linux's KUnit prints them: KTAP version 1 (`Documentation/dev-tools/ktap.rst`), a line a test as it ends.

use super::Case;
use crate::println;

/// In front of the reason why a test does not apply here: it is no failure.
pub(super) const SKIP: &str = "SKIP ";

/// Runs the cases of a suite, or as many of them until `is_enough`.
///
/// # Errors
///
/// Why the suite failed.
pub(super) fn run(suite: &str, cases: &[Case], is_enough: &mut dyn FnMut() -> bool) -> Result<(), &'static str> {
    println!("KTAP version 1\n1..1\n    KTAP version 1\n    # Subtest: {suite}\n    1..{}", cases.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (number, (name, case)) in (1..).zip(cases) {
        if is_enough() {
            return Err("it was ended");
        }
        match case() {
            Ok(()) => {
                passed += 1;
                println!("    ok {number} {name}");
            }
            Err(why) if why.starts_with(SKIP) => {
                skipped += 1;
                println!("    ok {number} {name} # {why}");
            }
            Err(why) => {
                failed += 1;
                println!("    # {name}: {why}\n    not ok {number} {name}");
            }
        }
    }
    println!("# {suite}: pass:{passed} fail:{failed} skip:{skipped} total:{}", cases.len());
    println!("{} 1 {suite}", if failed == 0 { "ok" } else { "not ok" });
    if failed == 0 { Ok(()) } else { Err("a test failed") }
}
