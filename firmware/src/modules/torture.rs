// SPDX-License-Identifier: MIT OR Apache-2.0
//! Torture: every CPU takes, checks, resizes, hands on and frees memory of every allocator at random, its tick does the same from
//! interrupts, and now and then memory is short, by failures on purpose and because somebody takes all of it. Every object
//! holds words that only its owner knows; each is looked at before it goes. Every few seconds all stand still, and the
//! allocators check themselves; at the end every page must be back.
//!
//! What a CPU does follows from the seed and its number alone, so `seed=` and `ops=` repeat it; on one CPU under
//! `ICOUNT=1` to the instruction.

mod object;
mod worker;

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use mm::arch::MAX_CPUS;
use mm::page_alloc::Faults;
use mm::slab::{CacheFlags, CacheRef, CacheSpec};
use mm::sync::Rank;
use spin::Once;

use self::object::Object;
use super::registry::{Module, Values};
use crate::boot::{self, Machine};
use crate::cpu::PerCpu;
use crate::random::Generator;
use crate::smp::{self, CpuSet};
use crate::sync::Lock;
use crate::thread::{self, JoinHandle};
use crate::{println, rcu, stacks, tick, time};

pub(super) const MODULE: Module = Module {
    name: "torture",
    parameters: &[("seconds", 10), ("seed", 0), ("ops", 0), ("slots", 128), ("shortage", 1), ("interrupts", 1)],
    run,
};

/// What each worker is told.
#[derive(Clone, Copy)]
struct Plan {
    machine: &'static Machine,
    cache: CacheRef,
    seed: u64,
    /// Operations of each CPU; 0 for as many as there is time for.
    ops: u64,
    /// Objects that each CPU holds at most.
    slots: usize,
    /// Whether somebody now and then takes all memory.
    hogs: bool,
}

/// Objects on their way from one CPU to another.
static HANDED: [Lock<Option<Object>>; 64] = [const { Lock::new(Rank::SLAB, None) }; 64];
/// What each CPU's tick holds.
static IN_TICK: [Lock<Option<Object>>; MAX_CPUS] = [const { Lock::new(Rank::SLAB, None) }; MAX_CPUS];
static IS_OVER: AtomicBool = AtomicBool::new(true);
/// All are to stand still.
static IS_PAUSED: AtomicBool = AtomicBool::new(false);
static TICKS_RUN: AtomicBool = AtomicBool::new(false);
/// Workers that stand still, or are through.
static STILL: AtomicUsize = AtomicUsize::new(0);
static THROUGH: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
static OPERATIONS: AtomicU64 = AtomicU64::new(0);
/// Allocations that found no memory: no fault, but how short it was.
static SHORTAGES: AtomicU64 = AtomicU64::new(0);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);

/// Between two checks of everything.
const CHECK_EVERY_MS: u64 = 3000;

fn run(values: &Values, is_enough: &mut dyn FnMut() -> bool) -> Result<(), &'static str> {
    let [seconds, seed, ops, slots, shortage, interrupts, ..] = *values;
    let machine = boot::machine().ok_or("no machine")?;
    let slab = crate::slab::slab().ok_or("there is no slab")?;
    let seed = if seed == 0 { time::ticks() | 1 } else { seed };
    let spec = CacheSpec { flags: CacheFlags::HWCACHE_ALIGN, ..CacheSpec::new("torture", object::CACHED) };
    let before = (pages_in_hand(machine), stacks::total_bytes());
    let faults = slab.nr_faults();
    let cache = slab.cache_create(spec).map_err(|_| "no memory for a cache")?;
    let plan = Plan { machine, cache, seed, ops, slots: slots.clamp(1, 4096) as usize, hogs: shortage != 0 };
    for counter in [&WRONG, &OPERATIONS, &SHORTAGES, &INTERRUPTS] {
        counter.store(0, Ordering::Relaxed);
    }
    THROUGH.store(0, Ordering::Relaxed);
    IS_OVER.store(false, Ordering::Relaxed);
    static HOOK: Once<bool> = Once::new();
    HOOK.call_once(|| tick::on_tick(work_in_tick));
    TICKS_RUN.store(interrupts != 0, Ordering::Relaxed);
    println!("torture: {} CPUs, seconds={seconds} seed={seed:#x} ops={ops}", smp::nr_online());
    let mut workers: [Option<JoinHandle<()>>; MAX_CPUS] = [const { None }; MAX_CPUS];
    let mut nr = 0;
    for (slot, cpu) in workers.iter_mut().zip(CpuSet::online().iter()) {
        *slot = thread::spawn_on(cpu, move || worker::run(cpu, plan)).ok();
        nr += usize::from(slot.is_some());
    }
    let lack = nr < smp::nr_online();
    let broken = if lack { Some("no memory for the workers") } else { watch(&plan, seconds, nr, is_enough) };
    IS_OVER.store(true, Ordering::Relaxed);
    TICKS_RUN.store(false, Ordering::Relaxed);
    machine.memory.pages.inject_faults(machine.options.faults);
    workers.into_iter().flatten().for_each(JoinHandle::join);
    // No tick is inside its share any more once each CPU took a call.
    rcu::synchronize();
    HANDED
        .iter()
        .chain(&IN_TICK)
        .filter_map(|slot| slot.lock().take())
        .for_each(|object| object.check_and_free(&plan, MAX_CPUS, 0));
    // SAFETY: the workers are gone, and what they held is free.
    let leaked = unsafe { slab.cache_destroy(cache) }.is_err();
    machine.memory.vmalloc.purge();
    smp::call(CpuSet::online(), &|_| slab.drain_this_cpu());
    let after = (pages_in_hand(machine), stacks::total_bytes());
    let (done, short, wrong) = (count(&OPERATIONS), count(&SHORTAGES), count(&WRONG));
    println!("torture: {done} operations, {} ticks, {short} times no memory, {wrong} wrong", count(&INTERRUPTS));
    // Tables and tags of vmalloc stay for the next one; nothing else does.
    let missing = before.0.saturating_sub(after.0);
    let found = match broken {
        Some(why) => Err(why),
        None if wrong > 0 => Err("an object was not as its owner left it"),
        None if slab.nr_faults() != faults => Err("the slab reported faults"),
        None if leaked => Err("objects of the cache are lost"),
        None if interrupts != 0 && ops == 0 && tick::is_running() && count(&INTERRUPTS) == 0 => {
            Err("no tick took part")
        }
        None if before.1 != after.1 => Err("a stack is lost"),
        None if missing > 0 => Err("pages are missing"),
        None => validate(machine).map_or(Ok(()), Err),
    };
    match found {
        Ok(()) => println!("torture: nothing was wrong, and every page is back"),
        Err(why) => {
            println!("torture: FAILED: {why} ({missing} pages are missing); again with seed={seed:#x} ops={ops}")
        }
    }
    found
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Frames that are free, or that an allocator keeps for its own use.
fn pages_in_hand(machine: &Machine) -> u64 {
    machine.memory.idle_pages() + crate::slab::slab().map_or(0, |slab| slab.pages() as u64)
}

/// Says how it goes, makes memory short, and checks everything from time to time. What is wrong, if something is.
fn watch(plan: &Plan, seconds: u64, nr: usize, is_enough: &mut dyn FnMut() -> bool) -> Option<&'static str> {
    let (start, mut last, mut round) = (time::ticks(), time::ticks(), 0_u64);
    let pages = plan.machine.memory.pages;
    while THROUGH.load(Ordering::Relaxed) < nr {
        thread::sleep(50);
        let is_late = plan.ops == 0 && time::has_passed(start, seconds * 1000);
        if is_late || is_enough() || count(&WRONG) > 0 {
            break;
        }
        round += 1;
        if plan.hogs {
            // A fifth of a second in each second, one in ten fails.
            let faults = Faults { interval: 1, probability: 10, space: 0, times: -1 };
            pages.inject_faults(round.is_multiple_of(20).then_some(faults).or(plan.machine.options.faults));
        }
        if time::has_passed(last, CHECK_EVERY_MS) {
            last = time::ticks();
            let broken = stand_still(plan, nr);
            let (at, done) = (time::to_ns(last - start) / 1_000_000_000, count(&OPERATIONS));
            println!(
                "torture: {at} s, {done} operations, {} ticks, {} times no memory",
                count(&INTERRUPTS),
                count(&SHORTAGES)
            );
            if broken.is_some() {
                return broken;
            }
        }
    }
    None
}

/// Checks the allocators while nobody uses them.
fn stand_still(plan: &Plan, nr: usize) -> Option<&'static str> {
    IS_PAUSED.store(true, Ordering::SeqCst);
    while STILL.load(Ordering::SeqCst) + THROUGH.load(Ordering::SeqCst) < nr {
        thread::yield_now();
    }
    // No tick is inside its share any more.
    rcu::synchronize();
    let broken = validate(plan.machine);
    IS_PAUSED.store(false, Ordering::SeqCst);
    broken
}

fn validate(machine: &Machine) -> Option<&'static str> {
    if machine.memory.pages.validate().is_err() {
        return Some("the page allocator's zones are not as they should be");
    }
    if !machine.memory.vmalloc.validate() {
        return Some("vmalloc's addresses are not as they should be");
    }
    let damaged = crate::slab::slab().is_some_and(|slab| slab.validate() > 0);
    damaged.then_some("the slab found damaged objects")
}

/// The tick's share: gives back what it took before, and takes something else.
fn work_in_tick(cpu: &'static PerCpu) {
    if !TICKS_RUN.load(Ordering::Relaxed) || IS_PAUSED.load(Ordering::SeqCst) {
        return;
    }
    let (Some(plan), Some(slot)) = (worker::plan(), IN_TICK.get(cpu.number())) else { return };
    INTERRUPTS.fetch_add(1, Ordering::Relaxed);
    let mut random = Generator::new(plan.seed ^ cpu.ticks().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (choice, size) = (random.next(), random.next());
    let new = Object::take_in_interrupt(&plan, choice, size);
    let old = core::mem::replace(&mut *slot.lock(), new);
    if let Some(old) = old {
        old.check_and_free(&plan, cpu.number(), 0);
    }
}
