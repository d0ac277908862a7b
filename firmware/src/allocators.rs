// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's allocators as statics and types, and Rust's global one: what is larger than a page comes from vmalloc if
//! memory is in pieces, and grows there without being copied.

use crate::cpu::Hardware;
use crate::slab::Source;

mm::kernel_allocators! {
    /// The machine's slab.
    pub static SLAB: Global<Hardware, Source>;
    /// The machine's vmalloc.
    pub static AREAS: Areas<Hardware, Source>;
}

#[global_allocator]
static HEAP: KVmalloc = KVmalloc;
