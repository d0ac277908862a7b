// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random calls, and what each must do by a model that knows all mappings.

use mm::addr::Order;
use mm::dma::{Attrs, CoherentMemory, Device, Direction, DmaAddr, DmaError, Spec};
use mm::gfp::Gfp;
use proptest::prelude::*;

use super::machine::Machine;
use super::{PAGE, Plan, TestMapper, add, at, end, phys, plain, window, with_machine};

#[derive(Clone, Debug)]
enum Call {
    Alloc {
        device: usize,
        pages: u64,
        waits: bool,
    },
    Free {
        which: usize,
        wrong: u8,
    },
    Map {
        device: usize,
        page: usize,
        offset: u64,
        size: u64,
        direction: u8,
    },
    /// The device does its work, the CPU looks, and writes, and the device looks.
    Sync {
        which: usize,
        offset: u64,
        size: u64,
    },
    Unmap {
        which: usize,
        wrong: u8,
    },
    Shrink,
}

fn call() -> impl Strategy<Value = Call> {
    let map = (0..3usize, 0..16usize, 0..4096u64, 1..6000u64, 0..3u8)
        .prop_map(|(device, page, offset, size, direction)| Call::Map { device, page, offset, size, direction });
    let lines =
        (0..3usize, 0..16usize, 0..64u64, 1..64u64, 0..3u8).prop_map(|(device, page, offset, size, direction)| {
            Call::Map { device, page, offset: offset * 64, size: size * 64, direction }
        });
    prop_oneof![
        3 => (0..3usize, 1..40u64, any::<bool>()).prop_map(|(device, pages, waits)| Call::Alloc { device, pages, waits }),
        3 => (any::<usize>(), 0..8u8).prop_map(|(which, wrong)| Call::Free { which, wrong }),
        4 => map,
        4 => lines,
        4 => (any::<usize>(), 0..4096u64, 1..4096u64).prop_map(|(which, offset, size)| Call::Sync { which, offset, size }),
        6 => (any::<usize>(), 0..8u8).prop_map(|(which, wrong)| Call::Unmap { which, wrong }),
        1 => Just(Call::Shrink),
    ]
}

struct Allocation {
    device: usize,
    size: u64,
    memory: CoherentMemory,
}

struct Mapping {
    device: usize,
    start: u64,
    size: u64,
    direction: Direction,
    addr: DmaAddr,
}

impl Mapping {
    fn overlaps(&self, start: u64, size: u64) -> bool {
        self.start < start + size && start < self.start + self.size
    }
}

struct World<'w, 'm, 'p, 'h> {
    machine: &'w Machine<'h>,
    mapper: &'w TestMapper<'m, 'p, 'h>,
    devices: [Device; 3],
    /// 16 pages that buffers lie in, in a row.
    arena: u64,
    allocations: Vec<Allocation>,
    mappings: Vec<Mapping>,
    /// What the arena must hold, as the CPU may see it.
    bytes: Vec<u8>,
    counter: u8,
}

impl World<'_, '_, '_, '_> {
    /// Where a device's address leads.
    fn seen(&self, device: usize, addr: DmaAddr) -> u64 {
        if device == 2 { addr.as_raw() - 0xc000_0000 + 0x4000_0000 } else { addr.as_raw() }
    }

    /// The device sees the caches: what the CPU sees is what it sees.
    fn device_read(&self, device: usize, phys: u64, size: usize) -> Vec<u8> {
        if device == 0 { self.machine.cpu_read(phys, size) } else { self.machine.device_read(phys, size) }
    }

    fn device_write(&self, device: usize, phys: u64, bytes: &[u8]) {
        if device == 0 { self.machine.cpu_write(phys, bytes) } else { self.machine.device_write(phys, bytes) }
    }

    fn next(&mut self) -> u8 {
        self.counter = self.counter.wrapping_add(1);
        self.counter
    }

    /// The CPU writes whatever of the arena is nobody's.
    fn write_around(&mut self) {
        let value = self.next();
        for at in (0..self.bytes.len() as u64).step_by(13) {
            if !self.mappings.iter().any(|mapping| mapping.overlaps(self.arena + at, 1)) {
                self.machine.cpu_write(self.arena + at, &[value]);
                self.bytes[at as usize] = value;
            }
        }
    }

    /// All that is nobody's is as it should be.
    fn check_arena(&self) {
        let now = self.machine.cpu_read(self.arena, self.bytes.len());
        for (at, (now, expected)) in now.iter().zip(&self.bytes).enumerate() {
            let is_lent = self.mappings.iter().any(|mapping| mapping.overlaps(self.arena + at as u64, 1));
            assert!(is_lent || now == expected, "byte {at:#x} of the arena is {now:#x}, not {expected:#x}");
        }
    }

    fn alloc(&mut self, device: usize, pages: u64, waits: bool) {
        let gfp = if waits { Gfp::KERNEL } else { Gfp::ATOMIC };
        let size = pages * PAGE - u64::from(self.next());
        let Ok(memory) = self.mapper.alloc_coherent(&self.devices[device], size, gfp | Gfp::NOWARN) else {
            assert!(!waits || self.allocations.len() > 8, "memory is there");
            return;
        };
        let at = phys(self.machine, memory.pointer);
        assert_eq!(at, self.seen(device, memory.addr));
        assert!(at.is_multiple_of(pages.next_power_of_two() * PAGE));
        assert!(device != 2 || at + pages * PAGE <= 0x4080_0000);
        assert_eq!(self.device_read(device, at, size as usize), vec![0; size as usize]);
        let value = self.next();
        self.machine.cpu_write(at, &[value]);
        assert_eq!(self.device_read(device, at, 1), [value]);
        let clash = |other: &Allocation| {
            let start = phys(self.machine, other.memory.pointer);
            start < at + pages * PAGE && at < start + other.size
        };
        assert!(!self.allocations.iter().any(clash));
        self.allocations.push(Allocation { device, size, memory });
    }

    fn free(&mut self, which: usize, wrong: u8) {
        if self.allocations.is_empty() {
            return;
        }
        let which = which % self.allocations.len();
        let Allocation { device, size, memory } = self.allocations[which];
        match wrong {
            0 => {
                let error = self.mapper.free_coherent(&self.devices[device], size + PAGE, memory).unwrap_err();
                assert!(matches!(error, DmaError::WrongSize { .. }));
            }
            1 => assert!(self.mapper.free_coherent(&self.devices[(device + 1) % 3], size, memory).is_err()),
            _ => {
                self.mapper.free_coherent(&self.devices[device], size, memory).unwrap();
                assert!(self.mapper.free_coherent(&self.devices[device], size, memory).is_err());
                self.allocations.swap_remove(which);
            }
        }
    }

    fn map(&mut self, device: usize, start: u64, size: u64, direction: Direction) {
        // SAFETY: the arena is ours.
        let mapped = unsafe { self.mapper.map_page(&self.devices[device], at(start), size, direction, Attrs::empty()) };
        let clashes = self
            .mappings
            .iter()
            .any(|other| other.overlaps(start, size) && (direction.writes() || other.direction.writes()));
        match mapped {
            Ok(addr) => {
                assert!(!clashes);
                let seen = self.seen(device, addr);
                if direction != Direction::FromDevice {
                    let (from, expected) = ((start - self.arena) as usize, size as usize);
                    assert_eq!(self.device_read(device, seen, size as usize), self.bytes[from..from + expected]);
                }
                self.mappings.push(Mapping { device, start, size, direction, addr });
            }
            Err(DmaError::Overlap(_)) => assert!(clashes),
            // The bounce area has 32 slots.
            Err(error) => assert!(matches!(error, DmaError::NoMemory), "{error}"),
        }
    }

    fn sync(&mut self, which: usize, offset: u64, size: u64) {
        if self.mappings.is_empty() {
            return;
        }
        let value = self.next();
        let Mapping { device, start, size: length, direction, addr } = self.mappings[which % self.mappings.len()];
        let (offset, size) = (offset % length, size.min(length - offset % length));
        let part = DmaAddr::new(addr.as_raw() + offset);
        let (seen, here) = (self.seen(device, part), start + offset);
        let (first, behind) = ((here - self.arena) as usize, (here - self.arena + size) as usize);
        if direction.writes() {
            self.device_write(device, seen, &vec![value; size as usize]);
            self.bytes[first..behind].fill(value);
        }
        // SAFETY: the model's device waits until it is told.
        unsafe { self.mapper.sync_for_cpu(&self.devices[device], part, size, direction).unwrap() };
        assert_eq!(self.machine.cpu_read(here, size as usize), self.bytes[first..behind]);
        let shared = self.mappings.iter().filter(|other| other.overlaps(here, size)).count() > 1;
        if direction != Direction::FromDevice && !shared {
            self.machine.cpu_write(here, &vec![!value; size as usize]);
            self.bytes[first..behind].fill(!value);
        }
        self.mapper.sync_for_device(&self.devices[device], part, size, direction).unwrap();
        if direction != Direction::FromDevice {
            assert_eq!(self.device_read(device, seen, size as usize), self.bytes[first..behind]);
        }
    }

    fn unmap(&mut self, which: usize, wrong: u8) {
        if self.mappings.is_empty() {
            return;
        }
        let which = which % self.mappings.len();
        let Mapping { device, start, size, direction, addr } = self.mappings[which];
        let value = self.next();
        let none = Attrs::empty();
        let twice = self.mappings.iter().filter(|other| other.start == start).count() > 1;
        // SAFETY: the model's device is done; whatever is wrong is refused.
        unsafe {
            match wrong {
                0 if !twice => {
                    let error = self.mapper.unmap(&self.devices[device], addr, size + 1, direction, none).unwrap_err();
                    assert_eq!(error, DmaError::WrongSize { mapped: size, given: size + 1 });
                    return;
                }
                1 if !twice => {
                    assert!(self.mapper.unmap(&self.devices[(device + 1) % 3], addr, size, direction, none).is_err());
                    return;
                }
                _ => {}
            }
            if direction.writes() {
                // Less than it could.
                let part = size.div_ceil(2);
                self.device_write(device, self.seen(device, addr), &vec![value; part as usize]);
                let first = (start - self.arena) as usize;
                self.bytes[first..first + part as usize].fill(value);
            }
            self.mapper.unmap(&self.devices[device], addr, size, direction, none).unwrap();
        }
        self.mappings.swap_remove(which);
    }

    /// What the mapper tells is what the model knows.
    fn check_held(&self) {
        let mut told = Vec::new();
        self.mapper.for_each_held(|held| told.push((held.phys.as_raw(), held.bytes)));
        let allocated = self
            .allocations
            .iter()
            .map(|allocation| (phys(self.machine, allocation.memory.pointer), allocation.size.next_multiple_of(PAGE)));
        let mut known: Vec<_> =
            allocated.chain(self.mappings.iter().map(|mapping| (mapping.start, mapping.size))).collect();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
        assert!(self.mapper.validate());
    }
}

fn run(calls: &[Call]) {
    with_machine(&Plan::small(), |machine, pages, mapper| {
        let devices = [
            add(mapper, Spec { is_coherent: true, ..plain("snoops") }),
            add(mapper, plain("plain")),
            add(mapper, Spec { reach: window(0x4000_0000, 8 << 20), ..Spec::new("legacy") }),
        ];
        let block = pages.alloc(Gfp::KERNEL | Gfp::ZERO, Order::new(4).unwrap()).unwrap();
        let arena = block.pfn().addr().as_raw();
        let bytes = machine.cpu_read(arena, 16 * PAGE as usize);
        let (allocations, mappings) = (Vec::new(), Vec::new());
        let mut world = World { machine, mapper, devices, arena, allocations, mappings, bytes, counter: 0 };
        for call in calls {
            match *call {
                Call::Alloc { device, pages, waits } => world.alloc(device, pages, waits),
                Call::Free { which, wrong } => world.free(which, wrong),
                Call::Map { device, page, offset, size, direction } => {
                    let start = arena + page as u64 * PAGE + offset;
                    let size = size.min(arena + 16 * PAGE - start);
                    let all = [Direction::ToDevice, Direction::FromDevice, Direction::Both];
                    world.map(device, start, size, all[direction as usize]);
                }
                Call::Sync { which, offset, size } => world.sync(which, offset, size),
                Call::Unmap { which, wrong } => world.unmap(which, wrong),
                Call::Shrink => drop(mapper.shrink()),
            }
            world.write_around();
            world.check_arena();
            world.check_held();
        }
        while !world.mappings.is_empty() {
            world.unmap(0, u8::MAX);
            world.check_arena();
        }
        while !world.allocations.is_empty() {
            world.free(0, u8::MAX);
        }
        world.devices.into_iter().for_each(|device| end(mapper, device));
        pages.free(block).unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_caches_never_come_between_cpu_and_device(calls in prop::collection::vec(call(), 1..60)) {
        run(&calls);
    }
}
