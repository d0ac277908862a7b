// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a virtio disk holds arrives through memory for devices. `tests/boots.sh` makes the disk: word i of it is
//! i * 2654435761.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
firmware::entry!(on_target::main);

#[cfg(target_os = "none")]
mod on_target {
    use firmware::allocators::{KVec, Kmalloc};
    use firmware::boot::Machine;
    use firmware::dma::disk::{Disk, DiskError, SECTOR_BYTES, with_disk};
    use firmware::dma::mapper;
    use firmware::println;
    use tests::check;

    /// Words of a sector.
    const WORDS: u64 = SECTOR_BYTES as u64 / 4;

    pub(crate) fn main(machine: &'static Machine) -> ! {
        if with_disk(machine, None, |_| Ok(())) == Err(DiskError::None) {
            tests::skip("no disk");
        }
        tests::run(
            machine,
            &[
                ("the disk is what the file is, as the tree has it", |machine| read_all(machine, None)),
                ("the same past the caches", |machine| read_all(machine, Some(false))),
                ("buffers that share lines with others arrive whole", buffers_between_others),
                ("what is no sector is refused", wrong_sectors),
                ("all memory came back", all_memory_is_back),
            ],
        )
    }

    fn expected(sector: u64, byte: usize) -> u8 {
        let word = (sector * WORDS + byte as u64 / 4) as u32;
        (word.wrapping_mul(2_654_435_761) >> (byte % 4 * 8)) as u8
    }

    fn is_right(sector: u64, data: &[u8]) -> bool {
        data.iter().enumerate().all(|(at, byte)| *byte == expected(sector, at))
    }

    fn vector(bytes: usize) -> KVec<u8> {
        let mut data = KVec::new_in(Kmalloc);
        data.resize(bytes, 0xee);
        data
    }

    fn ended(result: Result<bool, DiskError>) -> Result<(), &'static str> {
        match result {
            Ok(is_right) => check(is_right, "it holds something else"),
            Err(error) => {
                println!("{error}");
                Err("it cannot be read")
            }
        }
    }

    fn read_all(machine: &'static Machine, is_coherent: Option<bool>) -> Result<(), &'static str> {
        ended(with_disk(machine, is_coherent, |disk| {
            let sectors = disk.sectors();
            println!("{sectors} sectors");
            let mut is_whole = sectors > 0;
            for sector in (0..sectors).step_by(8) {
                let mut data = vector((sectors - sector).min(8) as usize * SECTOR_BYTES);
                disk.read(sector, &mut data)?;
                is_whole &= is_right(sector, &data);
            }
            let mut large = vector(sectors.min(256) as usize * SECTOR_BYTES);
            disk.read(0, &mut large)?;
            Ok(is_whole && is_right(0, &large))
        }))
    }

    fn buffers_between_others(machine: &'static Machine) -> Result<(), &'static str> {
        ended(with_disk(machine, Some(false), |disk: &mut Disk| {
            let mut is_whole = true;
            for offset in [1, 7, 63, 64, 100] {
                let mut data = vector(offset + SECTOR_BYTES + 50);
                let Some(part) = data.get_mut(offset..offset + SECTOR_BYTES) else { return Ok(false) };
                disk.read(3, part)?;
                is_whole &= is_right(3, part);
                is_whole &= data.iter().take(offset).chain(data.iter().skip(offset + SECTOR_BYTES)).all(|b| *b == 0xee);
            }
            Ok(is_whole)
        }))
    }

    fn wrong_sectors(machine: &'static Machine) -> Result<(), &'static str> {
        ended(with_disk(machine, None, |disk| {
            let (sectors, mut data) = (disk.sectors(), vector(2 * SECTOR_BYTES));
            let all = [(0, 0), (0, 511), (sectors, 512), (sectors - 1, 1024), (u64::MAX, 512)];
            let refused = all.into_iter().all(|(sector, bytes)| {
                data.get_mut(..bytes).is_some_and(|data| disk.read(sector, data) == Err(DiskError::Sector))
            });
            Ok(refused && with_disk(machine, None, |_| Ok(())) == Err(DiskError::Busy))
        }))
    }

    fn all_memory_is_back(_: &'static Machine) -> Result<(), &'static str> {
        let mapper = mapper().ok_or("there is no memory for devices")?;
        mapper.shrink();
        let usage = mapper.usage();
        check(usage.mappings == 0 && usage.bounce_bytes == 0, "something is mapped")?;
        check(usage.pool_free_bytes == usage.pool_bytes, "something is allocated")?;
        check(mapper.validate(), "it is not consistent")
    }
}
