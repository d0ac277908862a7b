// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole trees of known boards, and what must come out of them.
#![expect(clippy::unwrap_used, reason = "a test helper fails loudly")]

mod common;

use bsp::console::choose_console;
use bsp::info::{
    BootInfo, Conduit, Cpu, DmaWindow, EnableMethod, IntcKind, Interrupt, MasterKind, MemoryBank, Oddity, Psci,
    RawRange, ReservedKind, UartKind,
};
use common::blob;

const GIB: u64 = 1 << 30;

fn read(blob: &[u8]) -> Box<BootInfo> {
    let mut info = Box::new(BootInfo::new());
    bsp::dt::read(blob, &mut info).unwrap();
    info
}

fn range(base: u64, size: u64) -> RawRange {
    RawRange { base, size }
}

fn banks(info: &BootInfo) -> Vec<RawRange> {
    info.memory.iter().map(|bank| bank.range).collect()
}

fn oddities(info: &BootInfo) -> Vec<(Oddity, &str)> {
    info.problems.iter().map(|problem| (problem.oddity, &*problem.node)).collect()
}

#[test]
fn a_pi_4_has_the_banks_of_its_size() {
    let low = range(0, 0x3b40_0000);
    let below_4_gib = range(GIB, 0xbc00_0000);
    let above = [range(4 * GIB, 2 * GIB), range(6 * GIB, 2 * GIB)];
    for (name, expected, mib) in [
        ("rpi4-1gb", vec![low], 948),
        ("rpi4-2gb", vec![low, range(GIB, GIB)], 1972),
        ("rpi4-4gb", vec![low, below_4_gib], 3956),
        ("rpi4-8gb", vec![low, below_4_gib, above[0], above[1]], 8052),
    ] {
        let info = read(&blob(name));
        assert_eq!(banks(&info), expected, "{name}");
        assert_eq!(banks(&info).iter().map(|bank| bank.size).sum::<u64>(), mib << 20, "{name}");
        assert_eq!(oddities(&info), [], "{name}");
    }
}

#[test]
fn a_pi_4_tells_what_the_firmware_asks() {
    let info = read(&blob("rpi4-8gb"));
    assert!(info.is_raspberry_pi());
    assert_eq!((&*info.model, &*info.compatible), ("Raspberry Pi 4 (fixture)", "raspberrypi,4-model-b"));
    let [entry] = &info.reserved[..] else { panic!("{:?}", info.reserved) };
    assert_eq!((entry.range, entry.kind, &*entry.name), (range(0, 0x1000), ReservedKind::MemReserve, "memreserve"));
    let [cma] = &info.dynamic[..] else { panic!("{:?}", info.dynamic) };
    assert_eq!((cma.size, cma.align, cma.within), (64 << 20, 0, Some(range(0, GIB))));
    assert_eq!((cma.kind, cma.is_cma_default, &*cma.name), (ReservedKind::Reusable, true, "linux,cma"));
    assert_eq!(info.psci, None);
    assert_eq!(info.watchdog, Some(0xfe10_0000));
}

#[test]
fn bus_addresses_come_out_as_the_cpu_sees_them() {
    let pi4 = read(&blob("rpi4"));
    let ports: Vec<_> = pi4.uarts.iter().map(|uart| (uart.base, uart.size)).collect();
    // The third one is switched off.
    assert_eq!(ports, [(0xfe20_1000, 0x200), (0xfe21_5040, 0x40)]);
    let [gic] = &pi4.intcs[..] else { panic!("{:?}", pi4.intcs) };
    assert_eq!(gic.kind, IntcKind::GicV2);
    let expected = [(0xff84_1000, 0x1000), (0xff84_2000, 0x2000), (0xff84_4000, 0x2000), (0xff84_6000, 0x2000)];
    assert_eq!(gic.regs[..], expected.map(|(base, size)| range(base, size)));

    let pi3 = read(&blob("rpi3"));
    assert_eq!(pi3.uarts.iter().map(|uart| uart.base).collect::<Vec<_>>(), [0x3f20_1000, 0x3f21_5040]);
    let intcs: Vec<_> = pi3.intcs.iter().map(|intc| (intc.kind, intc.regs[0])).collect();
    assert_eq!(
        intcs,
        [(IntcKind::BcmL1, range(0x4000_0000, 0x100)), (IntcKind::BcmArmctrl, range(0x3f00_b200, 0x200))]
    );
    assert_eq!(pi3.watchdog, Some(0x3f10_0000));
    assert_eq!(banks(&pi3), [range(0, 0x3b40_0000)]);
}

#[test]
fn devices_are_wired_to_their_controllers() {
    let wire = |controller, cells| Interrupt { controller, cells };
    let pi4 = read(&blob("rpi4"));
    let timer = pi4.timer.as_ref().unwrap();
    assert_eq!(timer.interrupts[..], [13, 14, 11, 10].map(|ppi| wire(0, [1, ppi, 0xf08])));
    assert_eq!((timer.physical(), timer.virtual_()), (Some(wire(0, [1, 14, 0xf08])), Some(wire(0, [1, 11, 0xf08]))));
    assert_eq!(pi4.uarts[1].interrupt, Some(wire(0, [0, 93, 4])));

    // The cores' own controller, and the shared one behind it.
    let pi3 = read(&blob("rpi3"));
    assert_eq!(pi3.timer.as_ref().unwrap().interrupts[..], [0, 1, 3, 2].map(|line| wire(0, [line, 4, 0])));
    assert_eq!((pi3.intcs[0].parent, pi3.intcs[1].parent), (None, Some(wire(0, [8, 4, 0]))));
    assert_eq!(pi3.uarts[1].interrupt, Some(wire(1, [1, 29, 0])));
}

#[test]
fn masters_see_ram_as_their_buses_do() {
    let window = |bus, cpu, size| DmaWindow { bus, cpu, size };
    let pi4 = read(&blob("rpi4-8gb"));
    let [engine] = &pi4.masters[..] else { panic!("{:?}", pi4.masters) };
    assert_eq!(engine.kind, MasterKind::Bcm2835Dma { channels: 0x7f5 });
    assert_eq!((engine.base, engine.size, engine.is_coherent), (0xfe00_7000, 0xb00, false));
    assert_eq!(pi4.dma_buses[engine.bus as usize][..], [window(0xc000_0000, 0, GIB)]);
    let virt = read(&blob("masters"));
    let [plain, behind] = &virt.masters[..] else { panic!("{:?}", virt.masters) };
    assert_eq!((plain.base, plain.is_coherent, &virt.dma_buses[plain.bus as usize][..]), (0x0a00_0000, true, &[][..]));
    assert_eq!((behind.base, behind.is_coherent), (0x0b00_0200, false));
    assert_eq!(virt.dma_buses[behind.bus as usize][..], [window(0, 0x4000_0000, 0x1000_0000)]);
}

#[test]
fn the_tightest_bus_limits_dma() {
    // Bus 0xc000_0000 to RAM 0, 1 GiB of it; on the Pi 3 up to the peripherals.
    assert_eq!(read(&blob("rpi4-8gb")).dma_limit, Some(GIB));
    assert_eq!(read(&blob("rpi3")).dma_limit, Some(0x3f00_0000));
    // Two buses with limits: 512 MiB and 256 GiB.
    assert_eq!(read(&blob("console")).dma_limit, Some(GIB / 2));
    assert_eq!(read(&blob("numa")).dma_limit, None);
}

#[test]
fn cores_that_wait_in_a_spin_table_are_released_by_their_word() {
    for name in ["rpi4", "rpi3"] {
        let info = read(&blob(name));
        let expected = [0xd8, 0xe0, 0xe8, 0xf0].into_iter().enumerate().map(|(mpidr, release)| Cpu {
            mpidr: mpidr as u64,
            method: EnableMethod::SpinTable { release },
            node: 0,
        });
        assert_eq!(info.cpus[..], expected.collect::<Vec<_>>()[..], "{name}");
        assert_eq!(info.nr_cpus, 4, "{name}");
    }
}

#[test]
fn enabled_cores_are_known_with_their_methods() {
    let info = read(&blob("console"));
    let cpus: Vec<_> = info.cpus.iter().map(|cpu| (cpu.mpidr, cpu.method)).collect();
    // One core is switched off, and one node below /cpus is none. Addresses have two cells, the word has one.
    assert_eq!(
        cpus,
        [
            (0, EnableMethod::Psci),
            (0x1_0000_0100, EnableMethod::SpinTable { release: 0x8000_fff8 }),
            (0x102, EnableMethod::Unknown)
        ]
    );
    assert_eq!(info.nr_cpus, 3);
}

#[test]
fn the_first_enabled_psci_node_counts_wherever_it_is() {
    assert_eq!(read(&blob("console")).psci, Some(Psci { conduit: Conduit::Smc }));
    assert_eq!(read(&blob("numa")).psci, Some(Psci { conduit: Conduit::Hvc }));
}

#[test]
fn nodes_in_descending_order_are_sorted_and_keep_their_number() {
    let info = read(&blob("numa"));
    let bank = |base, node| MemoryBank { range: range(base, 256 << 20), node, hotpluggable: false };
    assert_eq!(info.memory[..], [bank(0x4000_0000, 0), bank(0x5000_0000, 1)]);
    assert_eq!(info.cpus.iter().map(|cpu| (cpu.mpidr, cpu.node)).collect::<Vec<_>>(), [(0, 0), (1, 1)]);
}

#[test]
fn every_kind_of_reservation_is_told_apart() {
    let info = read(&blob("reserved"));
    let reserved: Vec<_> =
        info.reserved.iter().map(|entry| (entry.range.base, entry.range.size, entry.kind, &*entry.name)).collect();
    // Empty ranges and nodes that are switched off reserve nothing; `no-map` wins over `reusable`.
    assert_eq!(
        reserved,
        [
            (0x4800_0000, 0x4000, ReservedKind::MemReserve, "memreserve"),
            (0x4a00_0000, 0x1001, ReservedKind::MemReserve, "memreserve"),
            (0x5000_0000, 0x20_0000, ReservedKind::NoMap, "secure@50000000"),
            (0x5100_0000, 0x1000, ReservedKind::NoMap, "secure@50000000"),
            (0x5200_0000, 0x10_0000, ReservedKind::Reusable, "buffer@52000000"),
            (0x5300_0000, 0x800, ReservedKind::Plain, "plain@53000000"),
            (0x5400_0000, 0x1000, ReservedKind::NoMap, "both@54000000"),
        ]
    );
    let [cma, carveout] = &info.dynamic[..] else { panic!("{:?}", info.dynamic) };
    assert_eq!((cma.size, cma.align, cma.within), (32 << 20, 2 << 20, Some(range(0x4000_0000, 0x1800_0000))));
    assert_eq!((cma.kind, cma.is_cma_default), (ReservedKind::Reusable, true));
    assert_eq!((carveout.size, carveout.within, carveout.kind), (0x1_0000, None, ReservedKind::NoMap));
    assert_eq!(oddities(&info), []);
}

#[test]
fn what_the_loader_left_is_read() {
    let info = read(&blob("reserved"));
    assert_eq!(info.initrd, Some(range(0x4b00_0000, 0x12_3456)));
    assert_eq!(&*info.bootargs, "mem=256M quiet");
    // `linux,usable-memory` takes the place of `reg`.
    let usable = [range(0x4000_0000, 0x1800_0000), range(0x5c00_0000, 0x400_0000)];
    assert_eq!(info.memory[..], usable.map(|range| MemoryBank { range, node: 0, hotpluggable: true }));
}

#[test]
fn memory_that_is_empty_off_or_no_memory_is_none() {
    assert_eq!(banks(&read(&blob("no-memory"))), []);
}

#[test]
fn absurd_numbers_are_passed_on_as_they_are() {
    let info = read(&blob("absurd"));
    assert_eq!(
        banks(&info),
        [
            range(0x4000_0000, 0x2000_0000),
            range(1 << 48, 0xffff_ffff_ffff_f000),
            range(0x000f_ff00_0000_0000, GIB),
            range(0xffff_ffff_f000_0000, 0x2000_0000),
        ]
    );
}

#[test]
fn stdout_path_is_followed_through_aliases_and_its_options_are_read() {
    for (name, stdout, baud, base) in [
        ("rpi4", "serial1:115200n8", Some(115_200), 0xfe21_5040),
        ("rpi3", "serial1:115200n8", Some(115_200), 0x3f21_5040),
        ("numa", "/pl011@9000000", None, 0x0900_0000),
        // The old property; the port stands behind two buses.
        ("console", "serial0:9600e7", Some(9600), 0x1_2040_0100),
    ] {
        let info = read(&blob(name));
        assert_eq!(info.stdout.as_deref(), Some(stdout), "{name}");
        assert_eq!(info.stdout_baud, baud, "{name}");
        assert_eq!(info.console().map(|uart| uart.base), Some(base), "{name}");
    }
}

#[test]
fn ports_know_their_driver_clock_and_number() {
    let info = read(&blob("rpi4"));
    let [pl011, mini] = &info.uarts[..] else { panic!("{:?}", info.uarts) };
    assert_eq!((pl011.kind, pl011.compatible), (UartKind::Pl011, "arm,pl011"));
    assert_eq!((pl011.clock_hz, pl011.serial_index), (Some(48_000_000), Some(0)));
    assert_eq!((mini.kind, mini.compatible), (UartKind::BcmAux, "brcm,bcm2835-aux-uart"));
    assert_eq!((mini.clock_hz, mini.serial_index), (None, Some(1)));

    let info = read(&blob("console"));
    let ports: Vec<_> = info.uarts.iter().map(|uart| (uart.base, uart.clock_hz, uart.serial_index)).collect();
    assert_eq!(
        ports,
        [(0x1_2040_0100, Some(1_843_200), Some(0)), (0x3000_1000, None, None), (0x0200_0000, None, Some(3))]
    );
}

#[test]
fn ports_without_a_way_to_the_cpu_are_named_and_left_out() {
    let info = read(&blob("console"));
    assert_eq!(oddities(&info), [(Oddity::Unreachable, "serial@20000"), (Oddity::Unreachable, "serial@8")]);
}

#[test]
fn the_command_line_chooses_another_port() {
    let info = read(&blob("rpi4"));
    let chosen = |command_line| choose_console(&info, command_line).map(|uart| uart.base);
    let (pl011, mini) = (Some(0xfe20_1000), Some(0xfe21_5040));
    assert_eq!(chosen(""), mini);
    assert_eq!(chosen("console=ttyAMA0"), pl011);
    assert_eq!(chosen("console=ttyAMA0,115200n8 quiet"), pl011);
    // The last one wins; one that is not there does not.
    assert_eq!(chosen("console=ttyAMA0 console=ttyS0"), mini);
    assert_eq!(chosen("console=ttyS1"), mini);
    assert_eq!(chosen("console=ttyAMA0 console=tty1 console=ttyAMA9 console=ttyAMA"), pl011);
    assert_eq!(chosen("console"), mini);
    assert_eq!(choose_console(&BootInfo::new(), "console=ttyAMA0"), None);
}

#[test]
fn reading_forgets_the_tree_before() {
    let mut info = read(&blob("reserved"));
    let fresh = read(&blob("rpi4-8gb"));
    bsp::dt::read(&blob("rpi4-8gb"), &mut info).unwrap();
    assert_eq!(format!("{info:?}"), format!("{fresh:?}"));
}

#[test]
fn the_compact_copy_says_the_same() {
    for name in ["rpi4-8gb", "rpi3", "reserved", "numa", "console"] {
        let mut loose = blob(name);
        // As QEMU hands it over: room for more at the end.
        loose.resize(loose.len() + 0x1_0000, 0);
        let total = u32::try_from(loose.len()).unwrap();
        loose[4..8].copy_from_slice(&total.to_be_bytes());
        let size = bsp::dt::compact_size(&loose).unwrap();
        assert!(size <= blob(name).len(), "{name}");
        let mut copy = vec![0; size];
        assert_eq!(bsp::dt::compact(&loose, &mut copy), Ok(size), "{name}");
        assert_eq!(format!("{:?}", read(&copy)), format!("{:?}", read(&loose)), "{name}");
        copy.pop();
        assert_eq!(bsp::dt::compact(&loose, &mut copy), Err(bsp::dt::DtError::NoRoom { needed: size }), "{name}");
    }
}
