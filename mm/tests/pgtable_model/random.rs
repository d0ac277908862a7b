// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations on random CPUs, of every size the tables know, beside a plain map.
//!
//! `PGTABLE_STEPS=5000000 cargo test --release -p mm --test pgtable_model random -- --nocapture` runs long;
//! `PGTABLE_SEED` replays.

use mm::arch::Arch;
use mm::arch::model::Machine;
use mm::arch::model::Model;
use mm::arch::model::frames::Frames;
use mm::pgtable::{Access, Attributes, Change, MapError, MemoryType, Regime};
use mm::tlb::Unmapped;

use super::machine::*;

const CPUS: usize = 4;
const SIZES: [u64; 8] = [0x1000, 0x2000, 0x3000, 0x1_0000, 0x1_1000, 0x20_0000, 0x21_0000, 0x40_1000];

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

fn attributes(rng: &mut Rng, user: bool) -> Attributes {
    let kernel = [Access::ReadOnly, Access::ReadWrite, Access::ReadExecute];
    let users = [Access::UserReadOnly, Access::UserReadWrite, Access::UserReadExecute];
    let memory = rng.pick(&[MemoryType::Normal, MemoryType::Normal, MemoryType::NormalNonCacheable]);
    Attributes { memory, access: rng.pick(if user { &users } else { &kernel }) }
}

/// An address: near the start of a table, of a block, of a group, or anywhere; in 16 MiB on both sides of a
/// level 2 table's end.
fn offset(rng: &mut Rng, base: u64) -> u64 {
    let near = rng.pick(&[0x1000, 0x1_0000, 0x20_0000]);
    base + (1 << 30) - (8 << 20) + rng.below((16 << 20) / near) * near + rng.pick(&[0, 0, 0, 0x1000, 0x5000])
}

/// Says which seed it was when a check further down fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with PGTABLE_SEED={}", self.0);
        }
    }
}

fn run(seed: u64, steps: u64, regime: Regime, machine: Machine) -> u64 {
    let _replay = Replay(seed);
    let model = Model::new(machine);
    let frames = Frames::new(&model);
    let mut bench = Bench::new(&model, &frames, regime);
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let base = if regime == Regime::Upper { VIRT } else { 0 };
    let user = matches!(regime, Regime::User(_));
    let mut waiting: Vec<Unmapped> = Vec::new();
    let mut done = 0;
    for step in 0..steps {
        let cpu = rng.below(CPUS as u64) as usize;
        let (virt, size) = (offset(&mut rng, base), rng.pick(&SIZES));
        // The last of these are often congruent, so that blocks and groups form.
        let phys = rng.pick(&[PHYS + 0x1000, PHYS + (virt - base), PHYS + (virt - base) + (1 << 33)]);
        let attributes = attributes(&mut rng, user);
        let what = rng.below(16);
        model.on(cpu, || match what {
            // Addresses that wait for their flush may not be mapped again: the type's user keeps to that.
            0..=5 => {
                let meets = |w: &Unmapped| virt < w.start().as_raw() + w.size() && w.start().as_raw() < virt + size;
                if !waiting.iter().any(meets) {
                    let result = bench.map(virt, phys, size, attributes);
                    assert!(matches!(result, Ok(()) | Err(MapError::AlreadyMapped(_) | MapError::NoTable)));
                }
            }
            6..=8 => {
                if let Ok(unmapped) = bench.unmap(virt, size) {
                    waiting.push(unmapped);
                }
            }
            9 | 10 => {
                let result = bench.change(virt, size, Change::Attributes(attributes));
                assert!(matches!(result, Ok(()) | Err(MapError::NotMapped(_) | MapError::NoTable)));
            }
            11 => drop(bench.trim(virt, size)),
            12 => bench.tlb.flush_everything(regime),
            13 => bench.frames.limit(rng.below(4)),
            14 => bench.frames.limit(u64::MAX),
            _ => model.isb(),
        });
        // One that waits is flushed now and then, by whichever CPU; or was by a whole flush.
        if waiting.len() > 4 || rng.below(3) == 0 && !waiting.is_empty() {
            let unmapped = waiting.swap_remove(rng.below(waiting.len() as u64) as usize);
            let flusher = rng.below(CPUS as u64) as usize;
            model.on(flusher, || match bench.tlb.try_quiesce(unmapped) {
                Ok(quiescent) => quiescent.release(),
                Err(unmapped) => bench.flush_beside(unmapped, &waiting),
            });
        }
        done += 1;
        let reports = model.take_reports();
        assert!(reports.is_empty(), "seed {seed}, step {step}: {reports:#x?}");
        if step % 64 == 0 {
            bench.check(CPUS);
        }
    }
    frames.limit(u64::MAX);
    while let Some(unmapped) = waiting.pop() {
        bench.flush_beside(unmapped, &waiting);
    }
    bench.check(CPUS);
    bench.tear_down();
    done
}

#[test]
fn random_operations_leave_nothing_reachable() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let total = number("PGTABLE_STEPS").unwrap_or(if cfg!(miri) { 60 } else { 3000 });
    let (first, only) = number("PGTABLE_SEED").map_or((1, false), |seed| (seed, true));
    let (mut seed, mut done) = (first, 0);
    while done < total {
        let regime = [Regime::Upper, Regime::User(mm::pgtable::Asid(7)), Regime::Lower, Regime::El2][seed as usize % 4];
        let features = all_features()[seed as usize % 3];
        let machine = Machine { features, ttl: seed.is_multiple_of(2), ..machine(CPUS, 40) };
        done += run(seed, total.min(500), regime, machine);
        if only {
            break;
        }
        seed += 1;
    }
    println!("{done} operations, seeds {first} to {seed}");
}
