// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random calls from random CPUs. `VMALLOC_STEPS=1000000` makes it a long run.

use mm::addr::PAGE_SIZE;
use mm::arch::Arch;
use mm::gfp::Gfp;
use mm::page_alloc::Shrinker;
use mm::vmalloc::{Config, Request};

use crate::machine::{CPUS, Machine, Random, config};

fn steps() -> u64 {
    let asked = std::env::var("VMALLOC_STEPS").ok().and_then(|steps| steps.parse().ok());
    asked.unwrap_or(if cfg!(miri) { 40 } else { 800 })
}

fn size(random: &mut Random) -> u64 {
    let pages = match random.below(16) {
        0 => random.below(700) + 1,
        1..4 => random.below(70) + 1,
        4 => 512,
        5 => 16,
        _ => random.below(5) + 1,
    };
    pages * PAGE_SIZE - if random.below(2) == 0 { 0 } else { random.below(PAGE_SIZE / 8) * 8 }
}

fn run(seed: u64, frames: u64, config: Config, most: usize) {
    let mut machine = Machine::with(frames, config);
    let mut random = Random(seed);
    for step in 0..steps() {
        let areas = machine.areas();
        let any = |random: &mut Random| areas[random.below(areas.len() as u64) as usize];
        let zero = if random.below(2) == 0 { Gfp::ZERO } else { Gfp::empty() };
        let mut request = Request::new(size(&mut random), Gfp::KERNEL | zero);
        let model = machine.model;
        let action = random.below(16);
        model.on(random.below(CPUS as u64) as usize, || match action {
            _ if areas.is_empty() || action < 6 && areas.len() < most => {
                request.align = PAGE_SIZE << random.below(3);
                // It may be too much: then nothing may be lost.
                let _ = machine.alloc(&request);
            }
            6..10 => {
                let _ = machine.resize(any(&mut random), &request);
            }
            10 => {
                machine.vmalloc.flush();
            }
            11 => model.isb(),
            _ => machine.free(any(&mut random)),
        });
        if step % 64 == 0 {
            machine.check();
        }
    }
    machine.tear_down();
}

#[test]
fn random_calls_from_all_cpus() {
    for seed in 1..4 {
        run(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed), 4096, config(4096), 40);
    }
}

#[test]
fn random_calls_where_memory_and_addresses_are_short() {
    let small = Config { size: 1024 * PAGE_SIZE, lazy_pages: 1000, ..config(1024) };
    run(0x1234_5678_9abc_def1, 1024, small, 40);
}

#[test]
fn random_calls_of_cpus_with_regions() {
    // The last CPU shares the first one's.
    run(0xabad_1dea, 4096, Config { regions: CPUS - 1, ..config(4096) }, 40);
    let small = Config { size: 512 * PAGE_SIZE, lazy_pages: 1000, regions: CPUS, ..config(1024) };
    run(0x5eed_cafe, 1024, small, 40);
}

#[test]
fn random_calls_without_large_descriptors() {
    run(0xfeed_f00d, 4096, Config { huge: false, ..config(4096) }, 40);
}

#[test]
fn random_calls_in_fragmented_memory() {
    // Single frames only, so that areas have as many runs as pages.
    let mut machine = Machine::new(4096);
    machine.source.largest.store(0, std::sync::atomic::Ordering::Relaxed);
    let mut random = Random(77);
    for _ in 0..steps() / 20 {
        let virt = machine.alloc(&Request::new(size(&mut random), Gfp::KERNEL)).unwrap();
        let virt = machine.resize(virt, &Request::new(size(&mut random), Gfp::KERNEL)).unwrap();
        machine.check();
        machine.free(virt);
    }
    machine.tear_down();
}
