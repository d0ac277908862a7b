// SPDX-License-Identifier: MIT OR Apache-2.0
//! Threads: they run where they are told to, wait for each other, and leave nothing behind.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use firmware::boot::{Machine, uptime_ns};
    use firmware::smp::{self, CpuSet};
    use firmware::thread::{self, SpawnError, WaitQueue};
    use firmware::{cpu, stacks};
    use mm::addr::{PAGE_SIZE, VirtAddr};
    use mm::arch::MAX_CPUS;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("a thread runs on its CPU and gives its result back", a_result_comes_back),
                ("what a closure owns goes in and comes out, and is dropped once", closures_are_moved),
                ("the address of a thread's stack tells whose it is", stacks_are_known),
                ("threads that are joined leave all their memory", memory_returns_exactly),
                ("a handle that is dropped waits for its thread", a_dropped_handle_waits),
                ("threads of one CPU take turns when they yield", yielding_takes_turns),
                ("two threads play ping-pong, on one CPU and between two", ping_pong),
                ("wake_all wakes everybody, wake_one the first", wake_ups),
                ("a sleeper sleeps long enough, and others run meanwhile", sleepers_sleep),
                ("there is no thread on a CPU that is not there", no_such_cpu),
                ("out of memory is an error, and nothing is lost by it", out_of_memory),
            ],
        )
    }

    const FAILED: &str = "a thread could not be spawned";

    fn last_cpu() -> usize {
        smp::nr_online() - 1
    }

    fn a_result_comes_back(_: &'static Machine) -> Result<(), &'static str> {
        for cpu in CpuSet::online().iter() {
            let ran_on = thread::spawn_on(cpu, || cpu::this().number()).map_err(|_| FAILED)?;
            check(ran_on.join() == cpu, "it ran on another CPU")?;
        }
        let large = thread::spawn_on(last_cpu(), || [0x5a_u8; 4000]).map_err(|_| FAILED)?.join();
        check(large == [0x5a; 4000], "a large result is damaged")
    }

    fn closures_are_moved(_: &'static Machine) -> Result<(), &'static str> {
        static DROPS: AtomicUsize = AtomicUsize::new(0);
        struct Owned([u64; 40]);
        impl Drop for Owned {
            fn drop(&mut self) {
                DROPS.fetch_add(1, Ordering::Relaxed);
            }
        }
        let owned = Owned([7; 40]);
        let back = thread::spawn_on(last_cpu(), move || owned).map_err(|_| FAILED)?.join();
        check(back.0 == [7; 40], "what came back is damaged")?;
        check(DROPS.load(Ordering::Relaxed) == 0, "it was dropped too early")?;
        drop(back);
        let owned = Owned([8; 40]);
        thread::spawn_on(last_cpu(), move || drop(owned)).map_err(|_| FAILED)?.join();
        check(DROPS.load(Ordering::Relaxed) == 2, "it was not dropped once")
    }

    fn stacks_are_known(_: &'static Machine) -> Result<(), &'static str> {
        let cpu = last_cpu();
        let look = || {
            let local = 0_u8;
            let address = (&raw const local).addr() as u64;
            let place = stacks::at(VirtAddr::new(address))?;
            let is_in = (place.range.start().as_raw()..place.range.end().as_raw()).contains(&address);
            is_in.then_some(place)
        };
        let place = thread::spawn_on(cpu, look).map_err(|_| FAILED)?.join().ok_or("it is not known")?;
        check(place.used_for == stacks::Use::Thread && place.cpu == cpu, "it is taken for another's")?;
        check(place.guard.end() == place.range.start() && place.guard.size() >= PAGE_SIZE, "it has no guard")?;
        check(stacks::at(place.range.start()).is_none(), "it is known when it is gone")?;
        check(stacks::at(VirtAddr::new(0)).is_none(), "0 is a stack")
    }

    /// Free pages and bytes of stacks.
    fn memory(machine: &'static Machine) -> (u64, u64) {
        (machine.memory.idle_pages(), stacks::total_bytes())
    }

    fn memory_returns_exactly(machine: &'static Machine) -> Result<(), &'static str> {
        let before = memory(machine);
        for round in 0..5 {
            let mut handles = [const { None }; 40];
            for (index, handle) in handles.iter_mut().enumerate() {
                let cpu = index % smp::nr_online();
                *handle = Some(thread::spawn_on(cpu, move || index * round).map_err(|_| FAILED)?);
            }
            check(memory(machine).0 < before.0, "threads have no memory")?;
            for (index, handle) in handles.into_iter().flatten().enumerate() {
                check(handle.join() == index * round, "a result is wrong")?;
            }
            check(memory(machine) == before, "memory is missing")?;
        }
        Ok(())
    }

    fn a_dropped_handle_waits(machine: &'static Machine) -> Result<(), &'static str> {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        let before = memory(machine);
        for cpu in CpuSet::online().iter() {
            let handle = thread::spawn_on(cpu, || {
                thread::sleep(1);
                DONE.fetch_add(1, Ordering::Relaxed);
            });
            drop(handle.map_err(|_| FAILED)?);
            check(DONE.load(Ordering::Relaxed) == cpu + 1, "it did not wait")?;
        }
        check(memory(machine) == before, "memory is missing")
    }

    fn yielding_takes_turns(_: &'static Machine) -> Result<(), &'static str> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let take_turns = |me: usize| {
            move || {
                (0..100).all(|round| {
                    // Nobody else runs on this CPU until we yield, and the other one yields each time.
                    let is_mine = NEXT.fetch_add(1, Ordering::Relaxed) == round * 2 + me;
                    thread::yield_now();
                    is_mine
                })
            }
        };
        let first = thread::spawn_on(0, take_turns(0)).map_err(|_| FAILED)?;
        let second = thread::spawn_on(0, take_turns(1)).map_err(|_| FAILED)?;
        check(first.join() & second.join(), "one was passed over")
    }

    static COURT: WaitQueue = WaitQueue::new();
    static BALL: AtomicUsize = AtomicUsize::new(0);

    fn ping_pong(_: &'static Machine) -> Result<(), &'static str> {
        const HITS: usize = 500;
        fn play(side: usize) -> usize {
            (0..HITS)
                .filter(|hit| {
                    COURT.wait_until(|| BALL.load(Ordering::Relaxed) % 2 == side);
                    let ball = BALL.load(Ordering::Relaxed);
                    BALL.store(ball + 1, Ordering::Relaxed);
                    COURT.wake_all();
                    ball == 2 * hit + side
                })
                .count()
        }
        for (left, right) in [(0, 0), (0, last_cpu()), (last_cpu(), last_cpu())] {
            BALL.store(0, Ordering::Relaxed);
            let first = thread::spawn_on(left, || play(0)).map_err(|_| FAILED)?;
            let second = thread::spawn_on(right, || play(1)).map_err(|_| FAILED)?;
            check((first.join(), second.join()) == (HITS, HITS), "the ball was lost")?;
        }
        Ok(())
    }

    fn wake_ups(_: &'static Machine) -> Result<(), &'static str> {
        static QUEUE: WaitQueue = WaitQueue::new();
        static TICKETS: AtomicUsize = AtomicUsize::new(0);
        static WAITING: AtomicUsize = AtomicUsize::new(0);
        static SERVED: AtomicUsize = AtomicUsize::new(0);
        let mut handles = [const { None }; 8];
        for (index, handle) in handles.iter_mut().enumerate() {
            let wait = || {
                WAITING.fetch_add(1, Ordering::Relaxed);
                let take = |tickets: usize| tickets.checked_sub(1);
                QUEUE.wait_until(|| TICKETS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok());
                SERVED.fetch_add(1, Ordering::Relaxed);
            };
            *handle = Some(thread::spawn_on(index % smp::nr_online(), wait).map_err(|_| FAILED)?);
        }
        while WAITING.load(Ordering::Relaxed) < handles.len() {
            thread::yield_now();
        }
        thread::sleep(20);
        check(SERVED.load(Ordering::Relaxed) == 0, "somebody did not wait")?;
        for served in 1..=3 {
            TICKETS.fetch_add(1, Ordering::Relaxed);
            QUEUE.wake_one();
            while SERVED.load(Ordering::Relaxed) < served {
                thread::yield_now();
            }
        }
        thread::sleep(20);
        check(SERVED.load(Ordering::Relaxed) == 3, "one wake-up woke two")?;
        TICKETS.fetch_add(5, Ordering::Relaxed);
        QUEUE.wake_all();
        drop(handles);
        check(SERVED.load(Ordering::Relaxed) == 8, "somebody was not woken")
    }

    fn sleepers_sleep(_: &'static Machine) -> Result<(), &'static str> {
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::online().iter().zip(&mut handles) {
            let nap = move || {
                let start = uptime_ns();
                thread::sleep(30);
                uptime_ns() - start
            };
            *handle = Some(thread::spawn_on(cpu, nap).map_err(|_| FAILED)?);
        }
        // This one is on a sleeper's CPU, and gets to run.
        let meanwhile = thread::spawn_on(0, uptime_ns).map_err(|_| FAILED)?.join();
        for handle in handles.into_iter().flatten() {
            let slept = handle.join();
            check(slept >= 30_000_000, "one was woken too early")?;
            check(slept < 5_000_000_000, "one slept far too long")?;
        }
        check(meanwhile < uptime_ns() - 25_000_000, "a sleeper held its CPU")
    }

    fn no_such_cpu(_: &'static Machine) -> Result<(), &'static str> {
        for cpu in [smp::nr_online(), MAX_CPUS, usize::MAX] {
            let refused = matches!(thread::spawn_on(cpu, || ()), Err(SpawnError::NoCpu(number)) if number == cpu);
            check(refused, "it was taken")?;
        }
        Ok(())
    }

    fn out_of_memory(machine: &'static Machine) -> Result<(), &'static str> {
        let before = memory(machine);
        // All memory that can be had but two pages, held in a chain through the pages themselves.
        let word = |frame: mm::addr::PhysAddr| -> *mut u64 {
            core::ptr::with_exposed_provenance_mut(firmware::memory::direct_map(frame).as_raw() as usize)
        };
        let mut last = u64::MAX;
        while let Some(frame) = machine.memory.take_frame(0) {
            // SAFETY: the frame is ours and in the direct map.
            unsafe { word(frame).write(last) };
            last = frame.as_raw();
        }
        for _ in 0..2 {
            let frame = mm::addr::PhysAddr::new(last).ok_or("there was no memory at all")?;
            // SAFETY: as above.
            last = unsafe { word(frame).read() };
            machine.memory.give_frame(frame);
        }
        let short = memory(machine);
        let refused = matches!(thread::spawn_on(0, || ()), Err(SpawnError::Stack(stacks::StackError::NoMemory)));
        let after = memory(machine);
        while let Some(frame) = mm::addr::PhysAddr::new(last) {
            // SAFETY: as above.
            last = unsafe { word(frame).read() };
            machine.memory.give_frame(frame);
        }
        check(refused, "a thread was made of nothing")?;
        check(after == short && memory(machine) == before, "memory is missing")
    }
}
