// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory management as Linux taught it: the core, with no I/O, no board, and no globals.
//!
//! Everything is a value that its user makes, gives memory to, and keeps; so a firmware has one of each, and a
//! host test as many as it likes. The hardware is behind one small trait, [`arch::Arch`].
//!
//! The way of RAM, from the loader to a page in hand:
//!
//! 1. [`memblock`]: while booting, who owns which byte
//! 2. [`pgtable`]: translation tables; the kernel's own map is the first
//! 3. [`page_alloc`]: blocks of frames for every CPU; hoards in front, watermarks, reclaim
//! 4. [`zone`]: RAM by node and by what devices reach, with fallback
//! 5. [`buddy`]: pages in blocks of 1 to 1024, state outside the pages
//! 6. [`slab`] and [`kmalloc`]: objects smaller than that
//! 7. [`vmalloc`]: memory that is contiguous in addresses only, freed lazily, resized in place
//! 8. [`kvmalloc`]: either of the last two, whichever has it
//! 9. [`dma`]: memory that devices use
//!
//! [`report`] says how things stand, in the formats that Linux users know.
//!
//! ```
//! use mm::addr::{Order, PhysAddr, PhysRange};
//! use mm::arch::host::Host;
//! use mm::gfp::Gfp;
//! use mm::memblock::Memblock;
//! use mm::page_alloc::{Config, Pages};
//!
//! // 64 MiB of RAM at 1 GiB, all of it free.
//! let range = |start, end| PhysRange::new(PhysAddr::new(start)?, PhysAddr::new(end)?);
//! let mut memblock = Memblock::new();
//! memblock.add(range(0x4000_0000, 0x4400_0000).ok_or("bad range")?, 0)?;
//! let host = Host::new(PhysAddr::ZERO, &mut []);
//! let config = Config::DEFAULT;
//! let mut metadata = vec![0; Pages::<Host<'_>>::metadata_bytes(&memblock, &config) as usize / 8];
//! let pages = Pages::build(&host, &memblock, &config, &mut metadata)?;
//!
//! let block = pages.alloc(Gfp::KERNEL, Order::ZERO)?;
//! assert_eq!(pages.free_pages() + pages.hoarded_pages(), 16384 - 1);
//! pages.free(block)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![cfg_attr(not(test), no_std)]

pub mod addr;
#[cfg(feature = "alloc")]
pub mod allocators;
pub mod arch;
pub mod buddy;
pub mod dma;
#[cfg(feature = "defmt")]
mod format;
pub mod gfp;
pub mod kmalloc;
pub mod kvmalloc;
pub mod memblock;
pub mod page_alloc;
pub mod percpu;
pub mod pgtable;
pub mod rcu;
pub mod report;
pub mod slab;
pub mod sync;
pub mod tlb;
pub mod vmalloc;
mod words;
pub mod zone;
