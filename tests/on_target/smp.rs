// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every CPU comes, runs code, calls the others, and stands still when one of them wants that.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use firmware::boot::Machine;
    use firmware::smp::{self, CpuSet};
    use firmware::{cpu, thread, tick, time};
    use mm::arch::{Arch, MAX_CPUS};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("all CPUs of the tree come", all_cpus_come),
                ("each CPU knows its own number and MPIDR", every_cpu_knows_itself),
                ("a call runs once on each CPU that it is for", a_call_runs_once_on_each),
                ("all CPUs call all others at once", all_call_all),
                ("a posted call runs without being waited for", a_post_runs),
                ("while one CPU works alone, no other moves", parked_cpus_stand_still),
                ("CPUs that want the parking lot at once take turns", parking_takes_turns),
                ("the timer ticks on each CPU", every_cpu_ticks),
                ("a function can be called at each tick of each CPU", hooks_are_called),
            ],
        )
    }

    /// A counter for each CPU.
    struct Counters([AtomicUsize; MAX_CPUS]);

    impl Counters {
        const fn new() -> Self {
            Self([const { AtomicUsize::new(0) }; MAX_CPUS])
        }

        fn of(&self, cpu: usize) -> usize {
            self.0.get(cpu).map_or(0, |counter| counter.load(Ordering::Relaxed))
        }
    }

    fn count(counters: &Counters, cpu: usize) {
        if let Some(counter) = counters.0.get(cpu) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn all_are(counters: &Counters, expected: usize) -> bool {
        CpuSet::online().iter().all(|cpu| counters.of(cpu) == expected)
    }

    /// How often each CPU does what all together do about `all` times: each time has to wait until the host has let
    /// every CPU run.
    fn rounds(all: usize) -> usize {
        (all / smp::nr_online()).max(2)
    }

    /// Runs `function` as a thread on every CPU, and waits for all.
    fn on_every_cpu(function: fn(usize) -> bool) -> Result<(), &'static str> {
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::online().iter().zip(&mut handles) {
            let spawned = thread::spawn_on(cpu, move || function(cpu));
            *handle = Some(spawned.map_err(|_| "a thread could not be spawned")?);
        }
        let all = handles.into_iter().flatten().all(thread::JoinHandle::join);
        check(all, "it failed on some CPU")
    }

    fn all_cpus_come(machine: &'static Machine) -> Result<(), &'static str> {
        check(smp::nr_online() == machine.info.nr_cpus.clamp(1, MAX_CPUS), "some are missing")
    }

    fn every_cpu_knows_itself(_: &'static Machine) -> Result<(), &'static str> {
        static RIGHT: Counters = Counters::new();
        smp::call(CpuSet::online(), &|number| {
            let hardware = cpu::hardware().cpu();
            let mpidr: u64;
            // SAFETY: reads an ID register.
            unsafe { core::arch::asm!("mrs {}, mpidr_el1", out(reg) mpidr, options(nomem, nostack)) };
            let this = cpu::this();
            if this.number() == number && hardware == number && mpidr & 0xff_00ff_ffff == this.mpidr() {
                count(&RIGHT, number);
            }
        });
        check(all_are(&RIGHT, 1), "a CPU takes itself for another")?;
        let mpidrs = || smp::online().map(cpu::PerCpu::mpidr);
        let distinct = mpidrs().enumerate().all(|(n, mpidr)| mpidrs().skip(n + 1).all(|other| other != mpidr));
        check(distinct, "two CPUs have one MPIDR")
    }

    fn a_call_runs_once_on_each(_: &'static Machine) -> Result<(), &'static str> {
        static RUNS: Counters = Counters::new();
        smp::call(CpuSet::online(), &|cpu| count(&RUNS, cpu));
        check(all_are(&RUNS, 1), "not once on each")?;
        smp::call(CpuSet::others(), &|cpu| count(&RUNS, cpu));
        smp::call(CpuSet::single(0), &|cpu| count(&RUNS, cpu));
        check(all_are(&RUNS, 2), "the others and this one are not all")?;
        smp::call(CpuSet::EMPTY, &|cpu| count(&RUNS, cpu));
        smp::call(CpuSet::single(MAX_CPUS - 1).and(CpuSet::others()), &|_| ());
        check(all_are(&RUNS, 2), "a call for nobody ran")
    }

    fn all_call_all(_: &'static Machine) -> Result<(), &'static str> {
        static RUNS: Counters = Counters::new();
        on_every_cpu(|_| {
            for _ in 0..rounds(400) {
                let answers = AtomicUsize::new(0);
                smp::call(CpuSet::online(), &|cpu| {
                    count(&RUNS, cpu);
                    answers.fetch_add(1, Ordering::Relaxed);
                });
                if answers.load(Ordering::Relaxed) != smp::nr_online() {
                    return false;
                }
            }
            true
        })?;
        check(all_are(&RUNS, rounds(400) * smp::nr_online()), "calls were lost or ran twice")
    }

    fn a_post_runs(_: &'static Machine) -> Result<(), &'static str> {
        const ROUNDS: usize = 50;
        static RUNS: Counters = Counters::new();
        for _ in 0..ROUNDS {
            smp::post(CpuSet::online(), &|cpu| count(&RUNS, cpu));
        }
        let start = time::ticks();
        while !all_are(&RUNS, ROUNDS) && !time::has_passed(start, 5000) {
            core::hint::spin_loop();
        }
        check(all_are(&RUNS, ROUNDS), "posted calls were lost or ran twice")
    }

    /// What every CPU counts up as fast as it can, until it is told to stop.
    static HEARTBEATS: Counters = Counters::new();
    static STOP: AtomicU64 = AtomicU64::new(0);

    fn parked_cpus_stand_still(_: &'static Machine) -> Result<(), &'static str> {
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::others().iter().zip(&mut handles) {
            let beat = move || {
                while STOP.load(Ordering::Relaxed) == 0 {
                    count(&HEARTBEATS, cpu);
                }
            };
            *handle = Some(thread::spawn_on(cpu, beat).map_err(|_| "a thread could not be spawned")?);
        }
        let sum = || (0..MAX_CPUS).map(|cpu| HEARTBEATS.of(cpu)).sum::<usize>();
        let mut moved = false;
        for _ in 0..20 {
            thread::sleep(5);
            moved |= smp::park_others(|| {
                let (before, start) = (sum(), time::ticks());
                while !time::has_passed(start, 2) {
                    core::hint::spin_loop();
                }
                sum() != before
            });
        }
        STOP.store(1, Ordering::Relaxed);
        drop(handles);
        check(sum() > 0 || smp::nr_online() == 1, "the others never ran")?;
        check(!moved, "a parked CPU has moved")
    }

    fn parking_takes_turns(_: &'static Machine) -> Result<(), &'static str> {
        static INSIDE: AtomicUsize = AtomicUsize::new(0);
        static TURNS: AtomicUsize = AtomicUsize::new(0);
        on_every_cpu(|_| {
            (0..rounds(48)).all(|_| {
                smp::park_others(|| {
                    let alone = INSIDE.fetch_add(1, Ordering::Relaxed) == 0;
                    // Not atomic as a whole: only right if everybody else stands still.
                    let turns = TURNS.load(Ordering::Relaxed);
                    core::hint::spin_loop();
                    TURNS.store(turns + 1, Ordering::Relaxed);
                    INSIDE.fetch_sub(1, Ordering::Relaxed);
                    alone
                })
            })
        })?;
        check(TURNS.load(Ordering::Relaxed) == rounds(48) * smp::nr_online(), "two were at work at once")
    }

    fn every_cpu_ticks(_: &'static Machine) -> Result<(), &'static str> {
        let mut before = [0; MAX_CPUS];
        smp::online().zip(&mut before).for_each(|(cpu, ticks)| *ticks = cpu.ticks());
        let wait = 10 * 1000 / tick::HZ;
        thread::sleep(wait);
        let start = time::ticks();
        let each_has = |more: u64| smp::online().zip(before).all(|(cpu, ticks)| cpu.ticks() >= ticks + more);
        // A busy host delays ticks, and late ones are left out; none at all would be wrong.
        while !each_has(3) && !time::has_passed(start, 5000) {
            thread::yield_now();
        }
        check(each_has(3), "a CPU does not tick")
    }

    fn hooks_are_called(_: &'static Machine) -> Result<(), &'static str> {
        static CALLS: Counters = Counters::new();
        check(tick::on_tick(|cpu| count(&CALLS, cpu.number())), "there is no room for a hook")?;
        let start = time::ticks();
        let all = || smp::online().all(|cpu| CALLS.of(cpu.number()) >= 3);
        while !all() && !time::has_passed(start, 5000) {
            thread::yield_now();
        }
        check(all(), "a CPU does not call it")
    }
}
