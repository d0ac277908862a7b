// SPDX-License-Identifier: MIT OR Apache-2.0
//! What each call promises, one by one; most of it wrong uses.

use mm::addr::Order;
use mm::arch::Arch;
use mm::dma::{Attrs, Coherent, Direction, Dma, DmaError, DmaPool, PoolSpec, Reach, Segment, Spec, Window, bit_mask};
use mm::gfp::Gfp;

use super::{PAGE, Plan, add, at, end, phys, plain, pointer, window, with_machine};

#[test]
fn coherent_memory_is_zero_uncached_aligned_and_seen_by_both() {
    with_machine(&Plan::small(), |machine, _, mapper| {
        let device = add(mapper, plain("nic"));
        for size in [1, PAGE, 3 * PAGE, 16 * PAGE] {
            let memory = mapper.alloc_coherent(&device, size, Gfp::KERNEL).unwrap();
            let phys = phys(machine, memory.pointer);
            let pages = size.div_ceil(PAGE);
            assert!(phys.is_multiple_of(pages.next_power_of_two() * PAGE));
            assert!((0..pages).all(|page| machine.is_uncached(phys + page * PAGE)));
            assert_eq!(machine.device_read(phys, size as usize), vec![0; size as usize]);
            machine.cpu_write(phys, b"to");
            assert_eq!(machine.device_read(phys, 2), b"to");
            machine.device_write(phys, b"from");
            assert_eq!(machine.cpu_read(phys, 4)[..1], b"from"[..1]);
            mapper.free_coherent(&device, size, memory).unwrap();
        }
        end(mapper, device);
    });
}

#[test]
fn wrong_sizes_devices_and_pointers_are_errors_that_change_nothing() {
    with_machine(&Plan::small(), |machine, _, mapper| {
        for is_coherent in [false, true] {
            let device = add(mapper, Spec { is_coherent, ..plain("right") });
            let other = add(mapper, Spec { is_coherent, ..plain("other") });
            assert_eq!(mapper.alloc_coherent(&device, 0, Gfp::KERNEL), Err(DmaError::Zero));
            let large = Order::MAX.bytes() + 1;
            assert_eq!(mapper.alloc_coherent(&device, large, Gfp::KERNEL), Err(DmaError::TooLarge(large)));
            assert!(mapper.alloc_coherent(&device, u64::MAX, Gfp::KERNEL).is_err());
            let memory = mapper.alloc_coherent(&device, 2 * PAGE, Gfp::KERNEL).unwrap();
            let given = |given| DmaError::WrongSize { mapped: 2 * PAGE, given };
            assert_eq!(mapper.free_coherent(&device, PAGE, memory), Err(given(PAGE)));
            assert_eq!(mapper.free_coherent(&other, 2 * PAGE, memory), Err(DmaError::WrongDevice(memory.addr)));
            let mut wrong = memory;
            wrong.pointer = pointer(machine, 0x4010_0000);
            assert_eq!(mapper.free_coherent(&device, 2 * PAGE, wrong), Err(DmaError::WrongPointer(memory.addr)));
            assert!(mapper.validate());
            mapper.free_coherent(&device, 2 * PAGE, memory).unwrap();
            assert_eq!(mapper.free_coherent(&device, 2 * PAGE, memory), Err(DmaError::NotMapped(memory.addr)));
            end(mapper, device);
            end(mapper, other);
        }
    });
}

#[test]
fn chunks_grow_for_who_may_wait_and_then_fail() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, Spec { reach: window(0x4000_0000, 8 << 20), ..Spec::new("legacy") });
        let mut all = Vec::new();
        let error = loop {
            let gfp = if all.len() < 32 { Gfp::ATOMIC } else { Gfp::KERNEL | Gfp::NOWARN };
            match mapper.alloc_coherent(&device, PAGE, gfp) {
                Ok(memory) => all.push(memory),
                Err(error) => break error,
            }
        };
        assert_eq!(error, DmaError::NoMemory);
        // The pool has 32 pages. What all devices reach is nearly all taken; the rest is too small, or in reserve.
        assert!(all.len() > 1000, "{}", all.len());
        assert!(all.iter().all(|memory| phys(machine, memory.pointer) < 0x4080_0000));
        assert!(all.iter().all(|memory| (0xc000_0000..0xc080_0000).contains(&memory.addr.as_raw())));
        // Others still have memory.
        let other = pages.alloc(Gfp::KERNEL, Order::MAX).unwrap();
        pages.free(other).unwrap();
        assert_eq!(mapper.alloc_coherent(&device, PAGE, Gfp::ATOMIC), Err(DmaError::NoMemory));
        all.into_iter().for_each(|memory| mapper.free_coherent(&device, PAGE, memory).unwrap());
        assert!(mapper.shrink() > 900);
        end(mapper, device);
    });
}

#[test]
fn nothing_old_is_written_back_into_a_new_chunk() {
    with_machine(&Plan { pool: None, ..Plan::small() }, |machine, pages, mapper| {
        let device = add(mapper, plain("nic"));
        // Whatever block the chunk will be, the CPU has written it and the caches have it.
        let take = || pages.alloc(Gfp::KERNEL | Gfp::NOWARN, Order::ZERO).ok();
        let blocks: Vec<_> = std::iter::from_fn(take).collect();
        for block in blocks {
            machine.cpu_write(block.pfn().addr().as_raw(), &[0xee; 4096]);
            pages.free(block).unwrap();
        }
        pages.drain();
        let memory = mapper.alloc_coherent(&device, 16 * PAGE, Gfp::KERNEL).unwrap();
        let start = phys(machine, memory.pointer);
        for line in (start..start + 16 * PAGE).step_by(64) {
            machine.device_write(line, &[1]);
            let now = machine.cpu_read(line, 64);
            assert!(now[0] == 1 && now[1..].iter().all(|byte| *byte == 0), "{line:#x}");
        }
        mapper.free_coherent(&device, 16 * PAGE, memory).unwrap();
        end(mapper, device);
    });
}

#[test]
fn interrupt_handlers_get_what_the_pool_has_and_no_more() {
    with_machine(&Plan::small(), |_, _, mapper| {
        let device = add(mapper, plain("nic"));
        let all: Vec<_> = (0..32).map(|_| mapper.alloc_coherent(&device, PAGE, Gfp::ATOMIC).unwrap()).collect();
        assert_eq!(mapper.alloc_coherent(&device, PAGE, Gfp::ATOMIC), Err(DmaError::NoMemory));
        all.into_iter().for_each(|memory| mapper.free_coherent(&device, PAGE, memory).unwrap());
        assert_eq!(mapper.usage().grown_bytes, 0);
        end(mapper, device);
    });
}

#[test]
fn masks_that_no_memory_satisfies_are_refused() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let narrow = Spec { mask: bit_mask(30), ..Spec::new("narrow") };
        assert_eq!(mapper.add_device(&narrow), Err(DmaError::Mask(bit_mask(30))));
        let mut device = add(mapper, Spec::new("wide"));
        assert_eq!(mapper.set_mask(&mut device, bit_mask(20)), Err(DmaError::Mask(bit_mask(20))));
        assert_eq!(device.mask(), bit_mask(32));
        // Reaches the pool, and half of zone DMA.
        mapper.set_mask(&mut device, 0x403f_ffff).unwrap();
        let memory = mapper.alloc_coherent(&device, PAGE, Gfp::KERNEL).unwrap();
        mapper.free_coherent(&device, PAGE, memory).unwrap();
        end(mapper, device);
        // A device that sees nothing of RAM.
        let blind =
            Spec { reach: Reach::new(&[Window { bus: 0, cpu: 0, size: 0x1000 }]).unwrap(), ..Spec::new("blind") };
        assert!(mapper.add_device(&blind).is_err());
        let _ = (machine, pages);
    });
}

#[test]
fn what_is_not_reached_is_bounced() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, Spec { reach: window(0x4000_0000, 8 << 20), ..Spec::new("legacy") });
        // Without DMA it comes from above the limit.
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let start = block.pfn().addr().as_raw();
        assert!(start >= 0x4080_0000);
        machine.cpu_write(start, &[0x55; 4096]);
        let buffer = pointer(machine, start);
        // SAFETY: the page is ours.
        let addr = unsafe { mapper.map_single(&device, buffer, PAGE, Direction::Both, Attrs::empty()).unwrap() };
        let seen = addr.as_raw() - 0xc000_0000 + 0x4000_0000;
        assert_eq!(machine.device_read(seen, 4096), vec![0x55; 4096]);
        machine.device_write(seen + 100, &[0xaa; 1000]);
        assert_eq!(mapper.usage().bounce_used_bytes, 4096);
        // SAFETY: the model's device is done.
        unsafe { mapper.unmap(&device, addr, PAGE, Direction::Both, Attrs::empty()).unwrap() };
        let after = machine.cpu_read(start, 4096);
        assert!(after[..100].iter().chain(&after[1100..]).all(|byte| *byte == 0x55));
        assert!(after[100..1100].iter().all(|byte| *byte == 0xaa));
        assert_eq!(mapper.usage().bounce_used_bytes, 0);
        pages.free(block).unwrap();
        end(mapper, device);
    });
}

#[test]
fn two_bounce_buffers_of_one_memory_are_two() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, Spec { reach: window(0x4000_0000, 8 << 20), ..Spec::new("legacy") });
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let (start, none, to) = (block.pfn().addr(), Attrs::empty(), Direction::ToDevice);
        machine.cpu_write(start.as_raw(), &[0x33; 4096]);
        let seen = |addr: mm::dma::DmaAddr| addr.as_raw() - 0xc000_0000 + 0x4000_0000;
        // SAFETY: the page is ours, and the model's device is done with what is unmapped.
        unsafe {
            let first = mapper.map_page(&device, start, PAGE, to, none).unwrap();
            let second = mapper.map_page(&device, start, PAGE, to, none).unwrap();
            assert_ne!(first, second);
            mapper.unmap(&device, second, PAGE, to, none).unwrap();
            assert_eq!(mapper.unmap(&device, second, PAGE, to, none), Err(DmaError::NotMapped(second)));
            // Whatever comes next is not put over the first.
            machine.cpu_write(start.as_raw(), &[0x44; 4096]);
            let third = mapper.map_page(&device, start, PAGE, to, none).unwrap();
            assert_eq!(machine.device_read(seen(first), 4096), vec![0x33; 4096]);
            assert_eq!(machine.device_read(seen(third), 4096), vec![0x44; 4096]);
            mapper.unmap(&device, first, PAGE, to, none).unwrap();
            mapper.unmap(&device, third, PAGE, to, none).unwrap();
        }
        pages.free(block).unwrap();
        end(mapper, device);
    });
}

#[test]
fn a_buffer_that_shares_a_line_is_bounced_where_the_device_writes() {
    for granule in [64, 2048] {
        with_machine(&Plan { granule, ..Plan::small() }, |machine, pages, mapper| {
            let device = add(mapper, plain("nic"));
            let block = pages.alloc(Gfp::KERNEL, Order::new(1).unwrap()).unwrap();
            let start = block.pfn().addr().as_raw();
            for (offset, size) in [(16, 64), (0, 32), (100, 1), (granule, granule + 8), (granule - 1, 2)] {
                machine.cpu_write(start, &[0x11; 8192]);
                let (size, part) = (size, at(start + offset));
                // SAFETY: the page is ours.
                let addr =
                    unsafe { mapper.map_page(&device, part, size, Direction::FromDevice, Attrs::empty()).unwrap() };
                assert_ne!(addr.as_raw(), part.as_raw(), "bounced");
                // A neighbour in the same line goes on.
                machine.cpu_write(start + offset + size, &[0x22]);
                machine.device_write(addr.as_raw(), &vec![0x33; size as usize]);
                // SAFETY: the model's device is done.
                unsafe { mapper.unmap(&device, addr, size, Direction::FromDevice, Attrs::empty()).unwrap() };
                let after = machine.cpu_read(start, 8192);
                let (first, behind) = (offset as usize, (offset + size) as usize);
                assert!(after[first..behind].iter().all(|byte| *byte == 0x33));
                assert_eq!(after[behind], 0x22);
                assert!(after[..first].iter().chain(&after[behind + 1..]).all(|byte| *byte == 0x11));
            }
            // Whole granules, and what is only read, stay where they are.
            for (offset, size, direction) in [(granule, granule, Direction::Both), (3, 5, Direction::ToDevice)] {
                // SAFETY: as above.
                let addr =
                    unsafe { mapper.map_page(&device, at(start + offset), size, direction, Attrs::empty()).unwrap() };
                assert_eq!(addr.as_raw(), start + offset);
                // SAFETY: as above.
                unsafe { mapper.unmap(&device, addr, size, direction, Attrs::empty()).unwrap() };
            }
            pages.free(block).unwrap();
            end(mapper, device);
        });
    }
}

#[test]
fn what_was_never_mapped_so_is_not_unmapped() {
    with_machine(&Plan::small(), |_, pages, mapper| {
        let (device, other) = (add(mapper, plain("right")), add(mapper, plain("other")));
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let (start, none) = (block.pfn().addr(), Attrs::empty());
        let to = Direction::ToDevice;
        // SAFETY: the page is ours, in all of these; whatever is unmapped, no device is there.
        unsafe {
            let addr = mapper.map_page(&device, start, 256, to, none).unwrap();
            assert_eq!(mapper.unmap(&other, addr, 256, to, none), Err(DmaError::WrongDevice(addr)));
            let wrong = DmaError::WrongSize { mapped: 256, given: 128 };
            assert_eq!(mapper.unmap(&device, addr, 128, to, none), Err(wrong));
            assert_eq!(mapper.unmap(&device, addr, 256, Direction::Both, none), Err(DmaError::WrongDirection(addr)));
            let behind = mm::dma::DmaAddr::new(addr.as_raw() + 64);
            assert_eq!(mapper.unmap(&device, behind, 256, to, none), Err(DmaError::NotMapped(behind)));
            assert!(mapper.sync_for_cpu(&device, addr, 257, to).is_err());
            assert!(mapper.sync_for_device(&other, addr, 16, to).is_err());
            mapper.sync_for_cpu(&device, behind, 64, to).unwrap();
            // Two may read the same, none may write it.
            let again = mapper.map_page(&other, start, 64, to, none).unwrap();
            let overlap = Err(DmaError::Overlap(start));
            assert_eq!(mapper.map_page(&other, at(start.as_raw() + 64), 64, Direction::FromDevice, none), overlap);
            mapper.unmap(&other, again, 64, to, none).unwrap();
            mapper.unmap(&device, addr, 256, to, none).unwrap();
            assert_eq!(mapper.unmap(&device, addr, 256, to, none), Err(DmaError::NotMapped(addr)));
            assert_eq!(mapper.map_page(&device, start, 0, to, none), Err(DmaError::Zero));
            let outside = at(0x1000);
            assert_eq!(mapper.map_page(&device, outside, 64, to, none), Err(DmaError::NotRam(outside)));
            let last = at(0x4000_0000 + (24 << 20) - 64);
            assert_eq!(mapper.map_page(&device, last, 65, to, none), Err(DmaError::NotRam(last)));
        }
        pages.free(block).unwrap();
        end(mapper, device);
        end(mapper, other);
    });
}

#[test]
fn memory_of_a_chunk_is_not_lent_as_well() {
    with_machine(&Plan::small(), |_, _, mapper| {
        let device = add(mapper, plain("nic"));
        let memory = mapper.alloc_coherent(&device, PAGE, Gfp::KERNEL).unwrap();
        // SAFETY: it is refused.
        let mapped = unsafe { mapper.map_single(&device, memory.pointer, 64, Direction::ToDevice, Attrs::empty()) };
        assert!(matches!(mapped, Err(DmaError::NotRam(_))), "{mapped:?}");
        mapper.free_coherent(&device, PAGE, memory).unwrap();
        end(mapper, device);
    });
}

#[test]
fn pieces_are_mapped_all_or_none() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, plain("nic"));
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let start = block.pfn().addr().as_raw();
        let mut segments = [0, 1024, 2048].map(|offset| Segment::new(at(start + offset), 512));
        // SAFETY: the page is ours, and the model's device is done when it is unmapped.
        unsafe {
            mapper.map_sg(&device, &mut segments, Direction::FromDevice, Attrs::empty()).unwrap();
            for segment in segments {
                machine.device_write(segment.addr.as_raw(), &[7; 512]);
            }
            mapper.unmap_sg(&device, &segments, Direction::FromDevice, Attrs::empty()).unwrap();
            assert_eq!(machine.cpu_read(start + 1024, 512), vec![7; 512]);
            segments[2].phys = at(0x1000);
            let mapped = mapper.map_sg(&device, &mut segments, Direction::FromDevice, Attrs::empty());
            assert_eq!(mapped, Err(DmaError::NotRam(at(0x1000))));
        }
        assert_eq!(mapper.usage().mappings, 0);
        pages.free(block).unwrap();
        end(mapper, device);
    });
}

#[test]
fn what_a_device_still_has_is_named_when_it_goes() {
    with_machine(&Plan::small(), |_, pages, mapper| {
        let device = add(mapper, plain("leaky"));
        let memory = mapper.alloc_coherent(&device, 3 * PAGE, Gfp::KERNEL).unwrap();
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let part = at(block.pfn().addr().as_raw() + 4);
        // SAFETY: the page is ours.
        let addr = unsafe { mapper.map_page(&device, part, 8, Direction::FromDevice, Attrs::empty()).unwrap() };
        let mut held = Vec::new();
        let (device, error) = mapper.release(device, |leak| held.push(*leak)).unwrap_err();
        assert_eq!(error, DmaError::InUse(2));
        assert_eq!((held[0].device, held[0].bytes, held[0].is_bounced), ("leaky", 3 * PAGE, false));
        assert_eq!((held[1].phys, held[1].bytes, held[1].is_bounced), (part, 8, true));
        assert!(held.iter().all(|leak| leak.caller.file().ends_with("calls.rs")));
        let usage = mapper.devices().next().unwrap();
        assert_eq!((usage.coherent, usage.streaming, usage.bounced), ((1, 3 * PAGE), (1, 8), 1));
        // SAFETY: no device is there.
        unsafe { mapper.unmap(&device, addr, 8, Direction::FromDevice, Attrs::empty()).unwrap() };
        mapper.free_coherent(&device, 3 * PAGE, memory).unwrap();
        pages.free(block).unwrap();
        end(mapper, device);
        assert_eq!(mapper.devices().count(), 0);
    });
}

#[test]
fn a_device_that_sees_the_caches_is_left_alone() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, Spec { is_coherent: true, ..plain("snoops") });
        let before = machine.operations();
        let memory = mapper.alloc_coherent(&device, 3 * PAGE, Gfp::KERNEL).unwrap();
        let first = phys(machine, memory.pointer);
        assert!(!machine.is_uncached(first) && machine.cpu_read(first, 3 * 4096) == vec![0; 3 * 4096]);
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let part = at(block.pfn().addr().as_raw() + 3);
        // SAFETY: the page is ours; no device is there.
        unsafe {
            let addr = mapper.map_page(&device, part, 5, Direction::Both, Attrs::empty()).unwrap();
            assert_eq!(addr.as_raw(), part.as_raw());
            mapper.unmap(&device, addr, 5, Direction::Both, Attrs::empty()).unwrap();
        }
        mapper.free_coherent(&device, 3 * PAGE, memory).unwrap();
        pages.free(block).unwrap();
        assert_eq!(machine.operations(), before);
        end(mapper, device);
    });
}

#[test]
fn blocks_of_a_pool_are_apart_aligned_and_within_borders() {
    with_machine(&Plan::small(), |machine, _, mapper| {
        for (is_coherent, size, align, boundary) in
            [(false, 64, 64, 0), (true, 8, 1, 0), (false, 24, 8, 128), (false, 100, 32, 1024), (true, 5000, 4096, 0)]
        {
            let device = add(mapper, Spec { is_coherent, ..plain("ring") });
            let pool = DmaPool::new(mapper, &device, &PoolSpec { size, align, boundary }).unwrap();
            let mut blocks: Vec<_> = (0..300).map(|_| pool.alloc(Gfp::KERNEL).unwrap()).collect();
            let mut starts: Vec<_> = blocks.iter().map(|block| block.addr.as_raw()).collect();
            starts.sort_unstable();
            assert!(starts.windows(2).all(|pair| pair[0] + size <= pair[1]));
            assert!(starts.iter().all(|start| start.is_multiple_of(align)));
            if boundary != 0 {
                assert!(starts.iter().all(|start| start / boundary == (start + size - 1) / boundary));
            }
            assert!(blocks.iter().all(|block| phys(machine, block.pointer) == block.addr.as_raw()));
            assert_eq!(pool.blocks().0, 300);
            let first = blocks.swap_remove(7);
            pool.free(first).unwrap();
            assert!(pool.free(first).is_err(), "freed already");
            let mut inside = blocks[0];
            inside.addr = mm::dma::DmaAddr::new(inside.addr.as_raw() + 1);
            assert!(pool.free(inside).is_err(), "no block");
            let Err((pool, error)) = pool.destroy() else { panic!("blocks are out") };
            assert_eq!(error, DmaError::InUse(299));
            for block in blocks {
                pool.free(block).unwrap();
            }
            assert!(pool.destroy().is_ok());
            end(mapper, device);
        }
        let device = add(mapper, plain("ring"));
        let layout = |size, align, boundary| DmaPool::new(mapper, &device, &PoolSpec { size, align, boundary }).err();
        assert_eq!(layout(0, 8, 0), Some(DmaError::Zero));
        assert_eq!(layout(64, 24, 0), Some(DmaError::Layout));
        assert_eq!(layout(64, 8, 100), Some(DmaError::Layout));
        assert_eq!(layout(65, 1, 64), Some(DmaError::Layout));
        end(mapper, device);
    });
}

#[test]
fn owners_give_back_and_what_is_dropped_stays_with_the_device() {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let device = add(mapper, plain("nic"));
        let mut ring = Coherent::<u32, _, _, _>::new(mapper, &device, 100, Gfp::KERNEL).unwrap();
        assert!(ring.write(3, 0x1234_5678) && !ring.write(100, 0));
        assert_eq!((ring.read(3), ring.read(2), ring.read(100)), (Some(0x1234_5678), Some(0), None));
        machine.device_write(ring.addr().as_raw() + 8, &[1, 2, 3, 4]);
        assert_eq!(ring.read(2), Some(0x0403_0201));
        drop(ring);
        let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
        let start = block.pfn().addr();
        machine.cpu_write(start.as_raw(), &[9; 4096]);
        // SAFETY: the page is ours, and stays so beyond this borrow.
        let bytes: &'static mut [u8] = unsafe { std::slice::from_raw_parts_mut(machine.direct_map(start), 4096) };
        let Ok(mut lent) = Dma::map(mapper, &device, bytes, Direction::Both) else { panic!("it is refused") };
        machine.device_write(lent.addr().as_raw(), &[1; 64]);
        // SAFETY: the model's device waits.
        let mut view = unsafe { lent.view() };
        assert_eq!((view[0], view[64]), (1, 9));
        view[64] = 8;
        drop(view);
        assert_eq!(machine.device_read(start.as_raw() + 64, 1), [8]);
        let addr = lent.addr();
        drop(lent);
        let mut held = 0;
        let (device, _) = mapper.release(device, |_| held += 1).unwrap_err();
        assert_eq!(held, 1);
        // SAFETY: no device is there.
        unsafe { mapper.unmap(&device, addr, 4096, Direction::Both, Attrs::empty()).unwrap() };
        pages.free(block).unwrap();
        end(mapper, device);
    });
}

/// The banks that the boot loader of the Raspberry Pi 4 writes: RAM on both sides of what its legacy masters reach.
#[test]
fn every_pi_gives_its_legacy_masters_what_they_reach() {
    const LOW: (u64, u64) = (0, 0x3b40_0000);
    let models: [&[(u64, u64)]; 4] = [
        &[LOW],
        &[LOW, (0x4000_0000, 0x4000_0000)],
        &[LOW, (0x4000_0000, 0xbc00_0000)],
        &[LOW, (0x4000_0000, 0xbc00_0000), (0x1_0000_0000, 0x8000_0000), (0x1_8000_0000, 0x8000_0000)],
    ];
    for banks in models {
        let plan = Plan {
            banks: banks.to_vec(),
            dma_limit: Some(0x4000_0000),
            pool: Some((0x3b00_0000, 1 << 20)),
            bounce: 1 << 20,
            granule: 64,
        };
        with_machine(&plan, |machine, pages, mapper| {
            let device = add(mapper, Spec { reach: window(0, 0x4000_0000), ..Spec::new("legacy") });
            let mut all = Vec::new();
            while let Ok(memory) = mapper.alloc_coherent(&device, 1 << 20, Gfp::KERNEL | Gfp::NOWARN) {
                let phys = phys(machine, memory.pointer);
                assert!(phys + (1 << 20) <= 0x4000_0000);
                assert_eq!(memory.addr.as_raw(), 0xc000_0000 + phys);
                all.push(memory);
            }
            assert!(all.len() > 30, "{}", all.len());
            // Wherever a buffer lies, the device gets its bytes.
            let block = pages.alloc(Gfp::KERNEL, Order::ZERO).unwrap();
            let start = block.pfn().addr();
            machine.cpu_write(start.as_raw(), &[0x5a; 4096]);
            // SAFETY: the page is ours, and the model's device is done when it is unmapped.
            unsafe {
                let addr = mapper.map_page(&device, start, PAGE, Direction::Both, Attrs::empty()).unwrap();
                let seen = addr.as_raw() - 0xc000_0000;
                assert_eq!(seen != start.as_raw(), start.as_raw() >= 0x4000_0000, "bounced from above only");
                assert_eq!(machine.device_read(seen, 4096), vec![0x5a; 4096]);
                mapper.unmap(&device, addr, PAGE, Direction::Both, Attrs::empty()).unwrap();
            }
            pages.free(block).unwrap();
            all.into_iter().for_each(|memory| mapper.free_coherent(&device, 1 << 20, memory).unwrap());
            end(mapper, device);
        });
    }
}
