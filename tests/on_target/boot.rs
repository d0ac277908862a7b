// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine that a program finds: map, memory, permissions.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::boot::{self, Machine};
    use firmware::layout::{DIRECT_MAP, VMALLOC_START};
    use firmware::{memory, symbols};
    use mm::addr::{PAGE_SIZE, VirtAddr};
    use tests::check;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        tests::run(
            machine,
            &[
                ("every byte of RAM is accounted for", every_byte_is_accounted_for),
                ("no page is writable and executable", no_page_is_writable_and_executable),
                ("the image is mapped by section", the_image_is_mapped_by_section),
                ("the direct map shows all RAM and nothing else", the_direct_map_shows_all_ram),
                ("boot tables and guard pages belong to the page allocator", boot_memory_is_given_back),
                ("the copy of the device tree reads as the original", the_copied_tree_reads_the_same),
                ("the lower half is empty", the_lower_half_is_empty),
                ("time goes on", time_goes_on),
                ("functions know their names", functions_know_their_names),
            ],
        )
    }

    fn every_byte_is_accounted_for(machine: &'static Machine) -> Result<(), &'static str> {
        let account = machine.memory.account();
        check(account.total == account.free + account.reserved + account.used, "the sum is wrong")?;
        check(account.free > account.total / 4, "less than a quarter is free")
    }

    fn no_page_is_writable_and_executable(machine: &'static Machine) -> Result<(), &'static str> {
        let map = machine.memory.map.lock();
        let mut executable = 0;
        for leaf in map.tree().leaves() {
            check(!(leaf.descriptor.is_writable() && leaf.descriptor.is_executable()), "W+X")?;
            executable += u64::from(leaf.descriptor.is_executable()) * leaf.size();
        }
        let [text, ..] = machine.memory.image.sections();
        check(executable == text.virt.size(), "something besides text is executable")
    }

    fn the_image_is_mapped_by_section(machine: &'static Machine) -> Result<(), &'static str> {
        let map = machine.memory.map.lock();
        for section in machine.memory.image.sections() {
            let phys = machine.memory.image.phys_of(section.virt);
            for offset in (0..section.virt.size()).step_by(PAGE_SIZE as usize) {
                let virt = VirtAddr::new(section.virt.start().as_raw() + offset);
                let expected = section.attributes.and_then(|_| phys.start().checked_add(offset));
                check(map.tree().translate(virt) == expected, "a page of the image is not where it should be")?;
            }
        }
        Ok(())
    }

    fn the_direct_map_shows_all_ram(machine: &'static Machine) -> Result<(), &'static str> {
        let map = machine.memory.map.lock();
        let ram: u64 = machine.memory.memblock.mapped_ranges().map(|range| range.size()).sum();
        let mut shown = 0;
        for leaf in map.tree().leaves().filter(|leaf| leaf.virt.as_raw() < VMALLOC_START) {
            let phys = leaf.descriptor.address();
            check(leaf.virt.as_raw() - DIRECT_MAP == phys.as_raw(), "the offset is not constant")?;
            check(machine.memory.memblock.is_memory(phys), "something is shown that is no RAM")?;
            shown += leaf.size();
        }
        check(shown == ram, "the sizes differ")
    }

    fn boot_memory_is_given_back(machine: &'static Machine) -> Result<(), &'static str> {
        for section in machine.memory.image.sections().iter().filter(|section| section.attributes.is_none()) {
            let phys = machine.memory.image.phys_of(section.virt).start();
            let owner = machine.memory.memblock.owner_of(phys).and_then(|region| memory::Owner::of(region.tag));
            let is_still_boot = matches!(owner, Some(memory::Owner::Section(_)));
            check(!is_still_boot, "a frame that only booting needed is still reserved")?;
        }
        Ok(())
    }

    fn the_copied_tree_reads_the_same(machine: &'static Machine) -> Result<(), &'static str> {
        let compact = memory::device_tree_is_compact(machine.memory.device_tree);
        check(compact, "the copy is no compact device tree")
    }

    fn the_lower_half_is_empty(machine: &'static Machine) -> Result<(), &'static str> {
        let map = machine.memory.map.lock();
        check(map.tree().translate(VirtAddr::new(0)).is_none(), "address 0 is mapped")
    }

    fn time_goes_on(_: &'static Machine) -> Result<(), &'static str> {
        let before = boot::uptime_ns();
        check((0..1_000_000).any(|_| boot::uptime_ns() > before), "the counter stands still")
    }

    fn functions_know_their_names(_: &'static Machine) -> Result<(), &'static str> {
        let this: fn(&'static Machine) -> Result<(), &'static str> = functions_know_their_names;
        let start = this as usize as u64;
        let symbol = symbols::lookup(start + 4).ok_or("this function is not in the table")?;
        check(symbol.name == *"boot::on_target::functions_know_their_names", "it has another name")?;
        check(symbol.offset == 4 && symbol.size > 4, "it is at another place")?;
        check(symbols::lookup(DIRECT_MAP).is_none(), "data has the name of a function")
    }
}
