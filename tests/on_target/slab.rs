// SPDX-License-Identifier: MIT OR Apache-2.0
//! The slab on real memory: objects hold what is written, from threads and from every CPU's tick at once; faults are
//! found; memory that ran out comes back.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::ptr::{self, NonNull};
    use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

    use firmware::allocators::{KVec, Kmalloc};
    use firmware::boot::Machine;
    use firmware::cpu::PerCpu;
    use firmware::slab::{KernelSlab, slab};
    use firmware::smp::{self, CpuSet};
    use firmware::{rcu, thread, tick, time};
    use mm::arch::MAX_CPUS;
    use mm::gfp::Gfp;
    use mm::rcu::RcuHead;
    use mm::slab::CacheSpec;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("every size is aligned, holds what is written and comes back", every_size),
                ("objects of any number of pages give all of them back", every_number_of_pages),
                ("a vector grows, and asks for too much without harm", vectors_grow),
                ("a second free and a wrong cache are found and change nothing", faults_are_found),
                ("memory runs out, is an error, and comes back", memory_runs_out),
                ("objects that are read without locks are freed by the ticks, and not too early", test_kfree_rcu),
                ("many objects at once wait for the ticks, and none is forgotten", many_wait),
                ("CPUs and their ticks allocate and free, also what others allocated", everybody_at_once),
            ],
        )
    }

    fn machine_slab() -> Result<&'static KernelSlab, &'static str> {
        slab().ok_or("there is no slab")
    }

    /// Fills an object with a byte of its own.
    fn fill(object: NonNull<u8>, bytes: usize) {
        // SAFETY: a new object of that size.
        unsafe { object.write_bytes(bytes as u8 ^ 0x5a, bytes) };
    }

    fn is_filled(object: NonNull<u8>, bytes: usize) -> bool {
        // SAFETY: an object of that size, filled.
        let content = unsafe { core::slice::from_raw_parts(object.as_ptr(), bytes) };
        content.iter().all(|byte| *byte == bytes as u8 ^ 0x5a)
    }

    fn free(slab: &KernelSlab, object: NonNull<u8>) {
        // SAFETY: the test's own object, which it gives up.
        unsafe { slab.kfree(object) };
    }

    fn every_size(_: &'static Machine) -> Result<(), &'static str> {
        let slab = machine_slab()?;
        for bytes in (1..9000).step_by(13).chain((0..16).map(|log| 1 << log)) {
            let Ok(object) = slab.kmalloc(bytes, Gfp::KERNEL) else { return Err("no memory") };
            let natural = if bytes.is_power_of_two() { bytes.clamp(8, 4096) } else { 8 };
            check(object.addr().get().is_multiple_of(natural), "misaligned")?;
            fill(object, bytes);
            check(is_filled(object, bytes), "the content changed")?;
            free(slab, object);
        }
        check(slab.nr_faults() == 0, "faults were reported")
    }

    fn every_number_of_pages(machine: &'static Machine) -> Result<(), &'static str> {
        let (slab, pages) = (machine_slab()?, machine.memory.pages);
        let free_pages = || pages.free_pages() + pages.hoarded_pages() + slab.pages() as u64;
        let before = free_pages();
        for nr in (1..40).chain([64, 65, 96, 100, 129, 192, 200, 255, 256]) {
            let bytes = nr * 4096;
            let Ok(object) = slab.kmalloc(bytes, Gfp::KERNEL) else { return Err("no memory") };
            fill(object, bytes);
            check(is_filled(object, bytes), "the content changed")?;
            free(slab, object);
            check(free_pages() == before, "pages were lost")?;
        }
        check(slab.nr_faults() == 0, "faults were reported")
    }

    fn vectors_grow(_: &'static Machine) -> Result<(), &'static str> {
        let mut numbers: KVec<u64> = KVec::new_in(Kmalloc);
        for number in 0..2000 {
            numbers.try_reserve(1).map_err(|_| "no memory")?;
            numbers.push(number);
        }
        check(numbers.iter().copied().eq(0..2000), "the vector's content changed")?;
        check(numbers.try_reserve(1 << 40).is_err(), "a terabyte was handed out")
    }

    fn faults_are_found(_: &'static Machine) -> Result<(), &'static str> {
        let slab = machine_slab()?;
        let before = slab.nr_faults();
        for bytes in [64, 1000, 5000] {
            let Ok(object) = slab.kmalloc(bytes, Gfp::KERNEL) else { return Err("no memory") };
            free(slab, object);
            let reported = slab.nr_faults();
            free(slab, object);
            check(slab.nr_faults() == reported + 1, "a second free was not found")?;
        }
        let cache = slab.cache_create(CacheSpec::new("mine", 64)).map_err(|_| "no cache")?;
        let other = slab.cache_create(CacheSpec::new("other", 64)).map_err(|_| "no cache")?;
        let object = slab.cache_alloc(cache, Gfp::KERNEL).map_err(|_| "no memory")?;
        // SAFETY: refused.
        unsafe { slab.cache_free(other, object) };
        check(slab.nr_faults() == before + 4, "the wrong cache was not found")?;
        // SAFETY: allocated above.
        unsafe { slab.cache_free(cache, object) };
        for cache in [cache, other] {
            // SAFETY: nobody else has the handle.
            unsafe { slab.cache_destroy(cache) }.map_err(|_| "an object was lost")?;
        }
        Ok(())
    }

    fn memory_runs_out(machine: &'static Machine) -> Result<(), &'static str> {
        let slab = machine_slab()?;
        slab.reclaim();
        let before = slab.pages();
        // Two sizes at least need the whole of memory; each object leads to the one before.
        for bytes in [3000, 200] {
            let mut last: Option<NonNull<u8>> = None;
            while let Ok(object) = slab.kmalloc(bytes, Gfp::KERNEL | Gfp::NOWARN) {
                // SAFETY: a new object.
                unsafe { object.cast::<Option<NonNull<u8>>>().write(last) };
                last = Some(object);
            }
            check(slab.kmalloc(100_000, Gfp::KERNEL | Gfp::NOWARN).is_err(), "there was memory left")?;
            while let Some(object) = last {
                // SAFETY: written above.
                last = unsafe { object.cast::<Option<NonNull<u8>>>().read() };
                free(slab, object);
            }
        }
        slab.reclaim();
        check(slab.pages() <= before + 2, "pages were kept")?;
        check(machine.memory.pages.validate().is_ok(), "the page allocator contradicts itself")
    }

    /// Objects on their way from one CPU to another.
    static HANDED: [AtomicPtr<u8>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];
    /// What the tick's handlers have seen go wrong, and how often they came.
    static TICKS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
    static BROKEN: AtomicBool = AtomicBool::new(false);
    static IN_TICK: AtomicBool = AtomicBool::new(false);

    fn size_at(index: usize) -> usize {
        8 + index * 37 % 1500
    }

    /// Puts a new object into a place and frees what was there, whoever put it.
    fn exchange(slab: &KernelSlab, index: usize, gfp: Gfp) {
        let index = index % HANDED.len();
        let Some(place) = HANDED.get(index) else { return };
        let Ok(object) = slab.kmalloc(size_at(index), gfp) else { return };
        fill(object, size_at(index));
        // Release and Acquire: the content goes with the object.
        if let Some(other) = NonNull::new(place.swap(object.as_ptr(), Ordering::AcqRel)) {
            if !is_filled(other, size_at(index)) {
                BROKEN.store(true, Ordering::Relaxed);
            }
            free(slab, other);
        }
    }

    /// In the tick of every CPU, in interrupt context.
    fn at_tick(data: &'static PerCpu) {
        let cpu = data.number();
        if !IN_TICK.load(Ordering::Relaxed) {
            return;
        }
        if let (Some(slab), Some(ticks)) = (slab(), TICKS.get(cpu)) {
            let count = ticks.fetch_add(1, Ordering::Relaxed);
            (0..20).for_each(|step| exchange(slab, (count * 20 + step) * 7 + cpu * 31, Gfp::ATOMIC));
        }
    }

    fn stress(cpu: usize) -> bool {
        let Some(slab) = slab() else { return false };
        let enough = || TICKS.get(cpu).is_none_or(|ticks| ticks.load(Ordering::Relaxed) >= 20);
        let mut step = 0;
        // Until its tick has come often enough, and so often at least.
        while step < 20_000 || (tick::is_running() && !enough()) {
            exchange(slab, step * 13 + cpu * 57, Gfp::KERNEL);
            step += 1;
        }
        !BROKEN.load(Ordering::Relaxed)
    }

    /// What is read without locks: a number and its complement, which freeing overwrites.
    struct Node {
        numbers: [usize; 2],
        head: RcuHead,
    }

    static NODE: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());
    static REPLACED: AtomicUsize = AtomicUsize::new(0);
    const REPLACEMENTS: usize = 500;

    /// Publishes a new node and leaves the old one to the ticks.
    fn replace(slab: &KernelSlab, number: usize) -> bool {
        let Ok(object) = slab.kmalloc(size_of::<Node>(), Gfp::KERNEL) else { return false };
        let node = object.cast::<Node>();
        // SAFETY: a new object of that size.
        unsafe { node.write(Node { numbers: [number, !number], head: RcuHead::new() }) };
        if let Some(old) = NonNull::new(NODE.swap(node.as_ptr(), Ordering::AcqRel)) {
            // SAFETY: inside the node, which is not freed yet.
            let head = unsafe { old.byte_add(core::mem::offset_of!(Node, head)) };
            // SAFETY: out of reach since the swap, and readers look at the numbers alone.
            unsafe { rcu::kfree_rcu(old.cast(), head.cast()) };
        }
        true
    }

    /// Reads nodes until all were replaced. False if one was freed while it was read.
    fn read_nodes() -> bool {
        let mut is_whole = true;
        while REPLACED.load(Ordering::Relaxed) < REPLACEMENTS {
            is_whole &= rcu::read(|| {
                let node = NODE.load(Ordering::Acquire);
                // SAFETY: nodes that are within reach are freed after this closure has returned.
                let numbers = unsafe { &raw const (*node).numbers };
                (0..100).all(|_| {
                    // SAFETY: the same.
                    let [number, complement] = unsafe { numbers.read_volatile() };
                    number == !complement
                })
            });
        }
        is_whole
    }

    fn test_kfree_rcu(_: &'static Machine) -> Result<(), &'static str> {
        let slab = machine_slab()?;
        let faults = slab.nr_faults();
        if !tick::is_running() {
            return Ok(());
        }
        check(replace(slab, 0), "no memory")?;
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::online().iter().zip(&mut handles).skip(1) {
            let spawned = thread::spawn_on(cpu, read_nodes);
            *handle = Some(spawned.map_err(|_| "a thread could not be spawned")?);
        }
        let mut most = 0;
        for number in 1..=REPLACEMENTS {
            check(replace(slab, number), "no memory")?;
            most = most.max(rcu::nr_waiting());
            REPLACED.store(number, Ordering::Relaxed);
            if number.is_multiple_of(50) {
                thread::sleep(10);
            }
        }
        check(handles.into_iter().flatten().all(thread::JoinHandle::join), "a node was freed while it was read")?;
        check(most > 0, "nothing ever waited")?;
        let start = time::ticks();
        while rcu::nr_waiting() > 0 {
            check(!time::has_passed(start, 10_000), "the ticks do not free what waits")?;
            thread::sleep(10);
        }
        if let Some(last) = NonNull::new(NODE.swap(ptr::null_mut(), Ordering::AcqRel)) {
            free(slab, last.cast());
        }
        check(slab.nr_faults() == faults, "faults were reported")
    }

    /// More than ticks free for a while, so that whoever defers them has to help.
    fn many_wait(_: &'static Machine) -> Result<(), &'static str> {
        const OBJECTS: usize = 5000;
        let slab = machine_slab()?;
        if !tick::is_running() {
            return Ok(());
        }
        let before = (slab.nr_faults(), slab.info().heap_objects);
        for _ in 0..OBJECTS {
            let Ok(object) = slab.kmalloc(300, Gfp::KERNEL) else { return Err("no memory") };
            // SAFETY: a new object, large enough and aligned.
            unsafe { object.cast::<RcuHead>().write(RcuHead::new()) };
            // SAFETY: nobody else knows of it.
            unsafe { rcu::kfree_rcu(object, object.cast()) };
        }
        let start = time::ticks();
        while rcu::nr_waiting() > 0 {
            check(!time::has_passed(start, 10_000), "the ticks do not free what waits")?;
            thread::sleep(10);
        }
        // What CPUs keep at hand counts as in use.
        check(slab.info().heap_objects < before.1 + 100, "an object was forgotten")?;
        check(slab.nr_faults() == before.0, "faults were reported")
    }

    fn everybody_at_once(_: &'static Machine) -> Result<(), &'static str> {
        let slab = machine_slab()?;
        let faults = slab.nr_faults();
        check(tick::on_tick(at_tick), "no room for a function at the tick")?;
        IN_TICK.store(true, Ordering::Relaxed);
        let mut handles = [const { None }; MAX_CPUS];
        for (cpu, handle) in CpuSet::online().iter().zip(&mut handles) {
            let spawned = thread::spawn_on(cpu, move || stress(cpu));
            *handle = Some(spawned.map_err(|_| "a thread could not be spawned")?);
        }
        let all = handles.into_iter().flatten().all(thread::JoinHandle::join);
        IN_TICK.store(false, Ordering::Relaxed);
        smp::call(CpuSet::online(), &|_| ());
        for (index, place) in HANDED.iter().enumerate() {
            if let Some(object) = NonNull::new(place.swap(ptr::null_mut(), Ordering::AcqRel)) {
                check(is_filled(object, size_at(index)), "the content changed")?;
                free(slab, object);
            }
        }
        check(all, "the content changed on some CPU")?;
        check(slab.nr_faults() == faults, "faults were reported")
    }
}
