// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for devices, on the machine: what is mapped how, what grows, and what comes back; and the Raspberry Pi's engine.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use core::ptr::NonNull;

    use firmware::allocators::{KVec, Kmalloc};
    use firmware::boot::Machine;
    use firmware::dma::engine::{self, EngineError};
    use firmware::dma::{KernelMapper, mapper};
    use firmware::memory::direct_map;
    use firmware::{println, translate};
    use mm::addr::{Order, PhysAddr};
    use mm::dma::{Attrs, CoherentMemory, Device, Direction, DmaError, Spec, bit_mask};
    use mm::gfp::Gfp;
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("coherent memory is zero, uncached and mapped once", coherent_is_uncached),
                ("chunks are added while all CPUs run, and go back", chunks_grow_and_go_back),
                ("masks that nothing satisfies end in errors", hopeless_masks),
                ("a mapping is undone as it was made, or not at all", wrong_unmaps),
                ("what is out of reach is bounced", out_of_reach),
                ("stacks and the image are no memory for devices", not_the_direct_map),
                ("objects for devices own their cache lines", objects_own_their_lines),
                ("the engine copies what the CPU wrote", the_engine_copies),
            ],
        )
    }

    fn plain(name: &'static str) -> Spec {
        Spec { mask: bit_mask(64), ..Spec::new(name) }
    }

    /// Runs `body` with a device of its own, which must have nothing left behind.
    fn with_device(
        spec: &Spec,
        body: impl FnOnce(&'static KernelMapper, &mut Device) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let mapper = mapper().ok_or("there is no memory for devices")?;
        let mut device = mapper.add_device(spec).map_err(|_| "there is no room for the device")?;
        body(mapper, &mut device)?;
        mapper.release(device, |held| println!("{held:?}")).map_err(|_| "something is left")?;
        check(mapper.validate(), "it is not consistent")
    }

    fn is_uncached(memory: CoherentMemory) -> bool {
        let par = translate::for_write(memory.pointer.addr().get() as u64);
        par.is_memory() && !par.is_cached()
    }

    fn coherent_is_uncached(_: &'static Machine) -> Result<(), &'static str> {
        with_device(&plain("test"), |mapper, device| {
            for size in [4096, 12288, 65536] {
                let memory = mapper.alloc_coherent(device, size, Gfp::KERNEL).map_err(|_| "no memory")?;
                check(is_uncached(memory), "it is cached")?;
                // SAFETY: ours, so long.
                let bytes = unsafe { core::slice::from_raw_parts_mut(memory.pointer.as_ptr(), size as usize) };
                check(bytes.iter().all(|byte| *byte == 0), "it is not zero")?;
                bytes.fill(0x5a);
                mapper.free_coherent(device, size, memory).map_err(|_| "it cannot be freed")?;
            }
            Ok(())
        })
    }

    fn chunks_grow_and_go_back(machine: &'static Machine) -> Result<(), &'static str> {
        let pages = machine.memory.pages;
        let free = || {
            machine.memory.vmalloc.purge();
            pages.drain();
            pages.free_pages() + pages.hoarded_pages()
        };
        with_device(&plain("test"), |mapper, device| {
            mapper.shrink();
            // Splitting the direct map takes tables, once.
            for round in 0..2 {
                let before = free();
                let mut all = [None; 40];
                for slot in &mut all {
                    *slot = mapper.alloc_coherent(device, 65536, Gfp::KERNEL).ok();
                }
                check(all.iter().flatten().count() == all.len(), "it does not grow")?;
                check(all.iter().flatten().all(|memory| is_uncached(*memory)), "a chunk is cached")?;
                let atomic = mapper.alloc_coherent(device, 4 << 20, Gfp::ATOMIC);
                check(atomic == Err(DmaError::NoMemory), "it grows for who may not wait")?;
                for memory in all.into_iter().flatten() {
                    mapper.free_coherent(device, 65536, memory).map_err(|_| "it cannot be freed")?;
                }
                check(mapper.shrink() >= 640 - 256, "nothing goes back")?;
                check(all.iter().flatten().skip(20).all(|memory| !is_uncached(*memory)), "what went back is uncached")?;
                check(round == 0 || free() == before, "memory is lost")?;
            }
            Ok(())
        })
    }

    fn hopeless_masks(machine: &'static Machine) -> Result<(), &'static str> {
        let mapper = mapper().ok_or("there is no memory for devices")?;
        let first = machine.info.memory.first().map_or(0, |bank| bank.range.base);
        if first > 0 {
            let spec = Spec { mask: first - 1, ..plain("hopeless") };
            check(mapper.add_device(&spec) == Err(DmaError::Mask(first - 1)), "a device reaches nothing")?;
        }
        with_device(&plain("test"), |mapper, device| {
            let narrow = first + (64 << 10) - 1;
            // It reaches some RAM, of which nothing may be free.
            if mapper.set_mask(device, narrow).is_ok()
                && let Ok(memory) = mapper.alloc_coherent(device, 4096, Gfp::KERNEL)
            {
                check(memory.addr.as_raw() <= narrow, "it is out of reach")?;
                mapper.free_coherent(device, 4096, memory).map_err(|_| "it cannot be freed")?;
            }
            check(mapper.alloc_coherent(device, 0, Gfp::KERNEL) == Err(DmaError::Zero), "nothing is something")
        })
    }

    fn wrong_unmaps(_: &'static Machine) -> Result<(), &'static str> {
        let mut data: KVec<u8> = KVec::new_in(Kmalloc);
        data.resize(4096, 7);
        with_device(&plain("test"), |mapper, device| {
            let (none, to) = (Attrs::empty(), Direction::ToDevice);
            let pointer = NonNull::from_mut(data.as_mut_slice()).cast();
            // SAFETY: the vector is ours, and there is no device.
            let addr = unsafe { mapper.map_single(device, pointer, 4096, to, none) }.map_err(|_| "it is refused")?;
            // SAFETY: as above.
            let short = unsafe { mapper.unmap(device, addr, 4095, to, none) };
            check(short == Err(DmaError::WrongSize { mapped: 4096, given: 4095 }), "the size does not matter")?;
            // SAFETY: as above.
            let other = unsafe { mapper.unmap(device, addr, 4096, Direction::Both, none) };
            check(other == Err(DmaError::WrongDirection(addr)), "the direction does not matter")?;
            // SAFETY: as above.
            unsafe { mapper.unmap(device, addr, 4096, to, none) }.map_err(|_| "it cannot be unmapped")?;
            // SAFETY: as above.
            let again = unsafe { mapper.unmap(device, addr, 4096, to, none) };
            check(again == Err(DmaError::NotMapped(addr)), "it is unmapped twice")
        })
    }

    fn out_of_reach(machine: &'static Machine) -> Result<(), &'static str> {
        let first = machine.info.memory.first().map_or(0, |bank| bank.range.base);
        let pages = machine.memory.pages;
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).map_err(|_| "no memory")?;
        let phys = block.pfn().addr();
        // Reaches all below the page, and not the page.
        let spec = Spec { mask: phys.as_raw() - 1, ..plain("narrow") };
        let result = if phys.as_raw() <= first + (1 << 20) {
            Ok(())
        } else {
            with_device(&spec, |mapper, device| {
                let (none, both) = (Attrs::empty(), Direction::Both);
                let word: *mut u64 = core::ptr::with_exposed_provenance_mut(direct_map(phys).as_raw() as usize);
                // SAFETY: the page is ours.
                unsafe { word.write(0x1234) };
                // SAFETY: as above, and there is no device.
                match unsafe { mapper.map_page(device, phys, 4096, both, none) } {
                    Ok(addr) => {
                        check(addr.as_raw() < phys.as_raw(), "it is not bounced")?;
                        // What the device would write, by the CPU's own view of the bounce buffer.
                        let at = direct_map(PhysAddr::new_saturating(addr.as_raw())).as_raw();
                        let seen: *mut u64 = core::ptr::with_exposed_provenance_mut(at as usize);
                        // SAFETY: RAM of the direct map that is lent to nobody but us.
                        check(unsafe { seen.read() } == 0x1234, "the device sees something else")?;
                        // SAFETY: as above.
                        unsafe { mapper.unmap(device, addr, 4096, both, none) }.map_err(|_| "it cannot be unmapped")?;
                    }
                    // The block for bounce buffers may lie above as well.
                    Err(DmaError::Unreachable(_)) => {}
                    Err(error) => {
                        println!("{error}");
                        return Err("it is refused");
                    }
                }
                mapper.shrink();
                Ok(())
            })
        };
        pages.free(block).map_err(|_| "it cannot be freed")?;
        result
    }

    fn not_the_direct_map(_: &'static Machine) -> Result<(), &'static str> {
        static CONSTANT: [u8; 64] = [1; 64];
        let on_the_stack = [0u8; 64];
        with_device(&plain("test"), |mapper, device| {
            for pointer in [NonNull::from_ref(&on_the_stack).cast(), NonNull::from_ref(&CONSTANT).cast()] {
                // SAFETY: nothing is written, and there is no device.
                let mapped = unsafe { mapper.map_single(device, pointer, 64, Direction::ToDevice, Attrs::empty()) };
                check(matches!(mapped, Err(DmaError::NotRam(_))), "it is lent")?;
            }
            let memory = mapper.alloc_coherent(device, 4096, Gfp::KERNEL).map_err(|_| "no memory")?;
            // SAFETY: as above.
            let mapped = unsafe { mapper.map_single(device, memory.pointer, 64, Direction::ToDevice, Attrs::empty()) };
            check(matches!(mapped, Err(DmaError::NotRam(_))), "uncached memory is lent")?;
            mapper.free_coherent(device, 4096, memory).map_err(|_| "it cannot be freed")
        })
    }

    fn objects_own_their_lines(machine: &'static Machine) -> Result<(), &'static str> {
        let slab = firmware::slab::slab().ok_or("there is no slab")?;
        let granule = mapper().ok_or("there is no memory for devices")?.granule();
        let limit = machine.info.dma_limit.unwrap_or(u64::MAX);
        let mut objects = [None; 9];
        for (bytes, slot) in [1, 8, 40, 64, 100, 200, 1000, 3000, 5000].into_iter().zip(&mut objects) {
            let object = slab.kmalloc(bytes, Gfp::KERNEL | Gfp::DMA).map_err(|_| "no memory")?;
            let at = object.addr().get() as u64;
            check(at.is_multiple_of(granule), "it begins within a line")?;
            check(at - direct_map(PhysAddr::ZERO).as_raw() < limit, "a device does not reach it")?;
            // SAFETY: ours, so long.
            unsafe { object.write_bytes(0x77, bytes) };
            *slot = Some((object, bytes as u64));
        }
        for (object, bytes) in objects.into_iter().flatten() {
            let (at, end) = (object.addr().get() as u64, object.addr().get() as u64 + bytes);
            let is_near = |other: u64| other != at && other + granule > at && other < end.next_multiple_of(granule);
            let near = objects.iter().flatten().any(|(other, _)| is_near(other.addr().get() as u64));
            check(!near, "two share a line")?;
        }
        for (object, _) in objects.into_iter().flatten() {
            // SAFETY: ours, and used no more.
            unsafe { slab.kfree(object) };
        }
        Ok(())
    }

    fn the_engine_copies(machine: &'static Machine) -> Result<(), &'static str> {
        for (from_offset, to_offset, bytes) in [(0, 0, 4096), (0, 3, 4), (5, 9, 1000), (0, 0, 40000), (64, 128, 64)] {
            let mut from: KVec<u8> = KVec::new_in(Kmalloc);
            from.extend((0..from_offset + bytes).map(|at| (at * 7) as u8));
            let mut to: KVec<u8> = KVec::new_in(Kmalloc);
            to.resize(to_offset + bytes + 30, 0xee);
            let (Some(source), Some(target)) = (from.get(from_offset..), to.get_mut(to_offset..to_offset + bytes))
            else {
                return Err("no such part");
            };
            match engine::copy(machine, source, target) {
                Ok(()) => {}
                Err(EngineError::None) if !machine.info.is_raspberry_pi() => return Ok(()),
                Err(error) => {
                    println!("{error}");
                    return Err("it does not copy");
                }
            }
            check(source == target, "it copies something else")?;
            let around = to.iter().take(to_offset).chain(to.iter().skip(to_offset + bytes));
            check(around.copied().all(|byte| byte == 0xee), "it writes beyond")?;
        }
        let usage = mapper().ok_or("there is no memory for devices")?.usage();
        check(usage.mappings == 0 && usage.bounce_used_bytes == 0, "something is mapped")
    }
}
