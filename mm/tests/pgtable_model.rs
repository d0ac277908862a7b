// SPDX-License-Identifier: MIT OR Apache-2.0
//! Translation tables and their flushes on the adversarial MMU model: whatever a CPU may have cached, nothing that
//! was given back can be reached, and no TLB ever holds two sizes or two targets of one address.
#![expect(clippy::indexing_slicing, reason = "test helpers index model arrays")]
#![expect(clippy::unwrap_used, reason = "a test helper may fail loudly")]

mod pgtable_model {
    pub(crate) mod exhaustive;
    pub(crate) mod machine;
    mod random;
    mod rules;
    mod schedules;
    mod split;
    mod users;
}
