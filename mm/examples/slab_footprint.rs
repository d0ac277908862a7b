// SPDX-License-Identifier: MIT OR Apache-2.0
//! Footprints of the slab in the states that Linux was measured in, and arenas as other allocators were.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a program for measuring")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::ptr::NonNull;

use mm::gfp::Gfp;
use mm::slab::Settings;
use support::{HostSlab, Machine};

const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

fn next(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x
}

fn below(x: &mut u64, n: u64) -> u64 {
    ((next(x) >> 32) * n) >> 32
}

fn trace(nr: usize) -> Vec<(usize, usize)> {
    let mut x = SEED;
    (0..nr)
        .map(|_| {
            let r = next(&mut x);
            let base = 8 << (((r >> 32) & 0xff) % 9);
            (((r >> 40) % 2000) as usize, (base + (r & 0xffff_ffff) % base) as usize)
        })
        .collect()
}

fn tiny_size(x: &mut u64) -> usize {
    let mut y = below(x, 100);
    let mut k = 3;
    for w in [10, 26, 26, 19, 13, 5, 1] {
        if y < w {
            break;
        }
        y -= w;
        k += 1;
    }
    ((1 << k) + below(x, 1 << k)) as usize
}

fn log_size(x: &mut u64) -> usize {
    let k = 3 + below(x, 9);
    ((1 << k) + below(x, 1 << k)) as usize
}

fn free(slab: &HostSlab<'_>, object: NonNull<u8>) {
    // SAFETY: the program's own object.
    unsafe { slab.kfree(object) };
}

fn overhead(slab: &HostSlab<'_>, live: usize) -> f64 {
    let info = slab.info();
    ((info.pages() - info.array_pages) * 4096) as f64 * 100.0 / live as f64 - 100.0
}

fn footprint(tiny: bool) {
    let ops = trace(100_000);
    let machine = Machine::new(1 << 17);
    let settings = Settings { tiny: Some(tiny), ..Settings::new(512 << 20, 1, |fault| panic!("{fault}")) };
    let slab = machine.slab(settings);
    let mut slots = vec![None; 2000];
    let mut live = 0;
    for &(slot, size) in &ops {
        match slots[slot].take() {
            Some((object, size)) => {
                free(&slab, object);
                live -= size;
            }
            None => {
                slots[slot] = Some((slab.kmalloc(size, Gfp::KERNEL).unwrap(), size));
                live += size;
            }
        }
    }
    if std::env::var_os("CACHES").is_some() {
        slab.caches().for_each(|c| println!("{c:?}"));
    }
    println!("tiny={tiny} trace {:.1} live {live} {:?}", overhead(&slab, live), slab.info());
    slots.into_iter().flatten().for_each(|(object, _)| free(&slab, object));
    slab.reclaim();
    let objects: Vec<_> = ops[..10_000].iter().map(|op| (slab.kmalloc(op.1, Gfp::KERNEL).unwrap(), op.1)).collect();
    let mut live: usize = objects.iter().map(|(_, size)| size).sum();
    println!("  grow {:.1}", overhead(&slab, live));
    let mut x = SEED;
    for (object, size) in objects {
        if (next(&mut x) >> 32) % 100 >= 10 {
            free(&slab, object);
            live -= size;
        }
    }
    println!("  thin {:.1} {:?}", overhead(&slab, live), slab.info());
}

fn completes(kind: usize, pages: usize, one_group: bool) -> Option<usize> {
    let machine = Machine::new(pages);
    let settings =
        Settings { tiny: Some(true), one_group, ..Settings::new(pages as u64 * 4096, 1, |fault| panic!("{fault}")) };
    let slab = machine.slab(settings);
    let mut x = SEED;
    let (mut live, mut peak) = (0, 0);
    let alloc = |size: usize| slab.kmalloc(size, Gfp::KERNEL).ok();
    match kind {
        0 => {
            let mut v = vec![];
            for _ in 0..2000 {
                let size = tiny_size(&mut x);
                v.push((alloc(size)?, size));
                live += size;
                peak = peak.max(live);
            }
            for _ in 0..20_000 {
                let i = below(&mut x, 2000) as usize;
                free(&slab, v[i].0);
                live -= v[i].1;
                let size = tiny_size(&mut x);
                v[i] = (alloc(size)?, size);
                live += size;
                peak = peak.max(live);
            }
        }
        1 => {
            let mut slots = vec![None; 2000];
            for _ in 0..200_000 {
                let i = below(&mut x, 2000) as usize;
                match slots[i].take() {
                    Some((object, size)) => {
                        free(&slab, object);
                        live -= size;
                    }
                    None => {
                        let size = log_size(&mut x);
                        slots[i] = Some((alloc(size)?, size));
                        live += size;
                        peak = peak.max(live);
                    }
                }
            }
        }
        _ => {
            let mut v = vec![];
            for _ in 0..20_000 {
                let size = tiny_size(&mut x);
                v.push((alloc(size)?, size));
                live += size;
            }
            peak = live;
            let mut ix: Vec<usize> = (0..20_000).collect();
            for i in (1..ix.len()).rev() {
                let j = below(&mut x, i as u64 + 1) as usize;
                ix.swap(i, j);
            }
            for &i in &ix[..18_000] {
                free(&slab, v[i].0);
                live -= v[i].1;
            }
            while live < peak * 95 / 100 {
                let size = 4 * tiny_size(&mut x);
                alloc(size)?;
                live += size;
            }
        }
    }
    Some(peak)
}

fn arena(kind: usize, one_group: bool) {
    let (mut low, mut high, mut peak) = (10, 1000, 0);
    while low < high {
        let middle = (low + high) / 2;
        match completes(kind, middle, one_group) {
            Some(p) => {
                high = middle;
                peak = p;
            }
            None => low = middle + 1,
        }
    }
    let control = size_of::<HostSlab<'_>>();
    println!(
        "arena {kind} one_group={one_group}: {low} pages, {:.3} with {control} bytes of control",
        peak as f64 / (low * 4098 + control) as f64
    );
}

fn main() {
    footprint(true);
    footprint(false);
    for kind in 0..3 {
        arena(kind, true);
        arena(kind, false);
    }
}
