// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that are no whole tree: each is refused, with what is wrong and where.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test helpers fail loudly")]

mod common;

use bsp::dt::header::{MAX_DEPTH, MAX_SIZE, PREFIX, total_size};
use bsp::dt::{DtError, compact, read};
use bsp::info::{BootInfo, MAX_BANKS, MAX_RESERVATIONS, Oddity};
use common::blob;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;
/// Header fields, by their number.
const TOTAL: usize = 1;
const STRUCTURE: usize = 2;
const STRINGS: usize = 3;
const RESERVE_MAP: usize = 4;
const VERSION: usize = 5;
const COMPATIBLE: usize = 6;
const STRINGS_SIZE: usize = 8;
const STRUCTURE_SIZE: usize = 9;

fn error(blob: &[u8]) -> Option<DtError> {
    read(blob, &mut BootInfo::new()).err()
}

fn with_field(mut blob: Vec<u8>, field: usize, value: u32) -> Vec<u8> {
    blob[field * 4..][..4].copy_from_slice(&value.to_be_bytes());
    blob
}

fn field(blob: &[u8], field: usize) -> u32 {
    u32::from_be_bytes(blob[field * 4..][..4].try_into().unwrap())
}

/// A structure block, written by hand.
#[derive(Default)]
struct Structure {
    bytes: Vec<u8>,
    strings: Vec<u8>,
}

impl Structure {
    fn token(mut self, token: u32) -> Self {
        self.bytes.extend(token.to_be_bytes());
        self
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    fn begin(self, name: &str) -> Self {
        self.token(BEGIN_NODE).padded(format!("{name}\0").as_bytes())
    }

    fn prop(mut self, name: &str, value: &[u8]) -> Self {
        let offset = self.strings.len() as u32;
        self.strings.extend(format!("{name}\0").as_bytes());
        self.token(PROP).token(value.len() as u32).token(offset).padded(value)
    }

    fn end(self) -> Self {
        self.token(END_NODE)
    }

    /// Header, empty reserve map, structure, strings.
    fn blob(self) -> Vec<u8> {
        self.blob_reserving(&[])
    }

    fn blob_reserving(self, map: &[(u64, u64)]) -> Vec<u8> {
        let map: Vec<u8> =
            map.iter().chain(&[(0, 0)]).flat_map(|pair| [pair.0, pair.1]).flat_map(u64::to_be_bytes).collect();
        let structure_at = PREFIX + map.len();
        let strings_at = structure_at + self.bytes.len();
        let total = strings_at + self.strings.len();
        let sizes = [total, structure_at, strings_at, PREFIX, 17, 16, 0, self.strings.len(), self.bytes.len()];
        let mut blob = 0xd00d_feed_u32.to_be_bytes().to_vec();
        blob.extend(sizes.into_iter().flat_map(|size| (size as u32).to_be_bytes()));
        blob.extend(map);
        blob.extend(self.bytes);
        blob.extend(self.strings);
        blob
    }
}

/// Where the structure block of these blobs begins.
const AT: usize = PREFIX + 16;

#[test]
fn a_whole_tree_written_by_hand_is_read() {
    let tree = Structure::default().begin("").prop("model", b"hand-made\0").token(NOP).end().token(END).blob();
    let mut info = BootInfo::new();
    assert_eq!(read(&tree, &mut info), Ok(()));
    assert_eq!(&*info.model, "hand-made");
}

#[test]
fn what_does_not_begin_like_a_tree_is_no_tree() {
    let tree = blob("numa");
    assert_eq!(error(&[]), Some(DtError::UnexpectedEnd { offset: 0 }));
    assert_eq!(error(&tree[..39]), Some(DtError::Truncated { total: tree.len() as u32, present: 39 }));
    assert_eq!(error(&[0; 64]), Some(DtError::BadMagic { found: 0 }));
    assert_eq!(error(&with_field(tree.clone(), 0, 0xedfe_0dd0)), Some(DtError::BadMagic { found: 0xedfe_0dd0 }));
    assert_eq!(error(&with_field(tree.clone(), VERSION, 16)), Some(DtError::BadVersion { found: 16 }));
    assert_eq!(error(&with_field(tree.clone(), COMPATIBLE, 18)), Some(DtError::BadVersion { found: 17 }));
    // The first bytes are all that there is to see before the rest is mapped.
    assert_eq!(total_size(&tree[..PREFIX]), Ok(tree.len()));
}

#[test]
fn sizes_and_blocks_must_be_inside() {
    let tree = blob("numa");
    let total = tree.len() as u32;
    for size in [0, PREFIX as u32 - 1, MAX_SIZE as u32 + 1, u32::MAX] {
        assert_eq!(error(&with_field(tree.clone(), TOTAL, size)), Some(DtError::BadSize { total: size }));
    }
    let longer = DtError::Truncated { total: total + 1, present: tree.len() };
    assert_eq!(error(&with_field(tree.clone(), TOTAL, total + 1)), Some(longer));
    for (number, block) in [(STRUCTURE, "structure block"), (STRINGS, "strings block"), (RESERVE_MAP, "reserve map")] {
        for offset in [0, PREFIX as u32 - 8, total, u32::MAX, u32::MAX - 7] {
            assert_eq!(error(&with_field(tree.clone(), number, offset)), Some(DtError::BadBlock { block, offset }));
        }
    }
    let offset = field(&tree, STRUCTURE);
    for size in [total, u32::MAX] {
        let bad = with_field(tree.clone(), STRUCTURE_SIZE, size);
        assert_eq!(error(&bad), Some(DtError::BadBlock { block: "structure block", offset }));
    }
    let offset = field(&tree, STRINGS);
    let bad = with_field(tree.clone(), STRINGS_SIZE, u32::MAX);
    assert_eq!(error(&bad), Some(DtError::BadBlock { block: "strings block", offset }));
    let offset = field(&tree, STRUCTURE) + 2;
    let bad = with_field(tree.clone(), STRUCTURE, offset);
    assert_eq!(error(&bad), Some(DtError::BadBlock { block: "structure block", offset }));
}

#[test]
fn every_truncation_is_refused() {
    for name in ["numa", "rpi4-8gb"] {
        let tree = blob(name);
        for present in 0..tree.len() {
            // As it is, and with a header that claims that nothing is missing.
            assert!(error(&tree[..present]).is_some(), "{name}: {present} bytes");
            if present >= PREFIX {
                let honest = with_field(tree[..present].to_vec(), TOTAL, present as u32);
                assert!(error(&honest).is_some(), "{name}: {present} bytes, and says so");
            }
        }
    }
}

#[test]
fn a_reserve_map_without_an_end_is_refused() {
    let tree = Structure::default().begin("").end().token(END).blob();
    // The structure follows at once; nothing in it is sixteen zeros.
    let mut bad = tree;
    bad[PREFIX] = 1;
    assert_eq!(error(&bad), Some(DtError::BadBlock { block: "reserve map", offset: PREFIX as u32 }));
}

/// A fuzzer's find: the compact copy of such a tree was larger than the tree.
#[test]
fn a_reserve_map_that_ends_in_another_block_is_refused() {
    let bad = Structure::default().begin("").prop("pad", &[0; 64]).end().token(END).blob();
    let mut bad = bad;
    bad[PREFIX] = 1;
    assert_eq!(error(&bad), Some(DtError::BadBlock { block: "reserve map", offset: PREFIX as u32 }));
    let bad = with_field(blob("numa"), STRINGS, field(&blob("numa"), STRUCTURE));
    assert!(matches!(error(&bad), Some(DtError::BadBlock { block: "strings block", .. })));
}

#[test]
fn tokens_that_do_not_belong_there_are_named() {
    let root = || Structure::default().begin("");
    let bad = |structure: Structure| error(&structure.blob());
    assert_eq!(bad(Structure::default()), Some(DtError::UnexpectedEnd { offset: AT }));
    assert_eq!(bad(Structure::default().token(END)), Some(DtError::BadToken { offset: AT, token: END }));
    assert_eq!(bad(Structure::default().end()), Some(DtError::BadToken { offset: AT, token: END_NODE }));
    assert_eq!(bad(root().token(5).end().token(END)), Some(DtError::BadToken { offset: AT + 8, token: 5 }));
    assert_eq!(bad(root().token(END)), Some(DtError::BadToken { offset: AT + 8, token: END }));
    assert_eq!(bad(root().end()), Some(DtError::UnexpectedEnd { offset: AT + 12 }));
    // A property behind a child, a property behind the root, something behind the end.
    let child = root().begin("a").end();
    assert_eq!(bad(child.prop("b", &[]).end().token(END)), Some(DtError::BadToken { offset: AT + 20, token: PROP }));
    assert_eq!(bad(root().end().prop("b", &[]).token(END)), Some(DtError::BadToken { offset: AT + 12, token: PROP }));
    assert_eq!(bad(root().end().token(END).token(NOP)), Some(DtError::BadToken { offset: AT + 12, token: END }));
}

#[test]
fn names_and_values_must_be_whole() {
    let bad = |structure: Structure| error(&structure.blob());
    // A root with a name, two roots, a child without a name, a name that is no text, a name without an end.
    assert_eq!(bad(Structure::default().begin("a").end().token(END)), Some(DtError::BadName { offset: AT + 4 }));
    let roots = Structure::default().begin("").end().begin("").end().token(END);
    assert_eq!(bad(roots), Some(DtError::BadName { offset: AT + 16 }));
    let child = Structure::default().begin("").begin("").end().end().token(END);
    assert_eq!(bad(child), Some(DtError::BadName { offset: AT + 12 }));
    let bell = Structure::default().begin("").begin("a\x07").end().end().token(END);
    assert_eq!(bad(bell), Some(DtError::BadName { offset: AT + 12 }));
    let endless = Structure::default().begin("").token(BEGIN_NODE).padded(b"abcd");
    assert_eq!(bad(endless), Some(DtError::BadName { offset: AT + 12 }));
    // A property longer than the block, by a little or by all there is; one whose name is not in the strings.
    for length in [9, 100, u32::MAX] {
        let long = Structure::default().begin("").token(PROP).token(length).token(0).padded(b"abcdefgh");
        let mut blob = long.blob();
        blob.extend(b"a\0");
        let total = blob.len() as u32;
        let blob = with_field(with_field(blob, TOTAL, total), STRINGS_SIZE, 2);
        assert_eq!(error(&blob), Some(DtError::BadName { offset: AT + 8 }), "{length}");
    }
    let nameless = Structure::default().begin("").token(PROP).token(0).token(1000).end().token(END);
    assert_eq!(bad(nameless), Some(DtError::BadName { offset: AT + 8 }));
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| {
        let down = (0..depth).fold(Structure::default().begin(""), |tree, _| tree.begin("n"));
        (0..=depth).fold(down, |tree, _| tree.end()).token(END).blob()
    };
    assert_eq!(error(&nested(MAX_DEPTH)), None);
    assert_eq!(error(&nested(MAX_DEPTH + 1)), Some(DtError::TooDeep { offset: AT + 8 * (MAX_DEPTH + 1) }));
    assert!(matches!(error(&nested(100_000)), Some(DtError::TooDeep { .. })));
}

#[test]
fn circles_end() {
    // Two buses that translate through each other's window, an alias and a port that name themselves, and a
    // controller that is its own parent.
    let cells = |values: &[u32]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<_>>();
    let tree = Structure::default()
        .begin("")
        .prop("#address-cells", &cells(&[1]))
        .prop("#size-cells", &cells(&[1]))
        .prop("interrupt-parent", &cells(&[1]))
        .begin("aliases")
        .prop("serial0", b"serial0\0")
        .prop("a", b"b\0")
        .prop("b", b"a\0")
        .end()
        .begin("chosen")
        .prop("stdout-path", b"serial0:serial0:serial0\0")
        .end()
        .begin("bus")
        .prop("#address-cells", &cells(&[1]))
        .prop("#size-cells", &cells(&[1]))
        .prop("phandle", &cells(&[1]))
        .prop("ranges", &cells(&[0, 0x100, 0x1000, 0x100, 0, 0x1000]))
        .begin("serial@10")
        .prop("compatible", b"arm,pl011\0")
        .prop("clocks", &cells(&[1]))
        .prop("reg", &cells(&[0x10, 0x1000]))
        .end()
        .end()
        .end()
        .token(END)
        .blob();
    let mut info = BootInfo::new();
    assert_eq!(read(&tree, &mut info), Ok(()));
    assert_eq!(info.uarts[0].base, 0x110);
    assert_eq!((info.stdout_uart, info.problems[0].oddity), (None, Oddity::UnknownStdout));
}

#[test]
fn cells_without_sense_hurt_nobody() {
    let cells = |values: &[u32]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<_>>();
    for (address, size) in [(0, 0), (0, u32::MAX), (u32::MAX, 0), (u32::MAX, u32::MAX), (5, 5), (1, 0)] {
        let tree = Structure::default()
            .begin("")
            .prop("#address-cells", &cells(&[address]))
            .prop("#size-cells", &cells(&[size]))
            .begin("memory@0")
            .prop("device_type", b"memory\0")
            .prop("reg", &cells(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]))
            .end()
            .begin("bus")
            .prop("ranges", &cells(&[0, 0, 0, 1]))
            .prop("dma-ranges", &cells(&[0, 0, 0, 1]))
            .begin("serial@0")
            .prop("compatible", b"arm,pl011\0")
            .prop("reg", &cells(&[0, 1, 2, 3]))
            .end()
            .end()
            .end()
            .token(END)
            .blob();
        let mut info = BootInfo::new();
        assert_eq!(read(&tree, &mut info), Ok(()), "{address} {size}");
        // Without a size there is no RAM.
        assert!(info.memory.is_empty(), "{address} {size}: {:?}", info.memory);
    }
}

#[test]
fn more_ranges_than_there_is_room_for_are_never_lost_in_silence() {
    let regions =
        |count: u64| (0..count).flat_map(|n| [n << 32, 1 << 20]).flat_map(u64::to_be_bytes).collect::<Vec<_>>();
    let tree = |banks, reservations: usize| {
        Structure::default()
            .begin("")
            .prop("#address-cells", &2_u32.to_be_bytes())
            .prop("#size-cells", &2_u32.to_be_bytes())
            .begin("memory")
            .prop("device_type", b"memory\0")
            .prop("reg", &regions(banks))
            .end()
            .end()
            .token(END)
            .blob_reserving(&vec![(0x1000, 0x1000); reservations])
    };
    let mut info = BootInfo::new();
    read(&tree(MAX_BANKS as u64, MAX_RESERVATIONS), &mut info).unwrap();
    assert!(!info.is_truncated());
    read(&tree(MAX_BANKS as u64 + 1, 0), &mut info).unwrap();
    assert_eq!(info.lost_ranges, 1);
    read(&tree(1, MAX_RESERVATIONS + 2), &mut info).unwrap();
    assert_eq!(info.lost_ranges, 2);
}

#[test]
fn no_copy_is_made_of_what_is_no_tree() {
    let tree = blob("numa");
    let mut room = vec![0; tree.len()];
    assert_eq!(compact(&[0; 64], &mut room), Err(DtError::BadMagic { found: 0 }));
    assert!(matches!(compact(&tree[..200], &mut room), Err(DtError::Truncated { .. })));
    assert!(matches!(compact(&tree, &mut []), Err(DtError::NoRoom { .. })));
}

#[test]
fn every_reason_can_be_read() {
    for (error, text) in [
        (DtError::BadMagic { found: 0x1234 }, "magic is 0x00001234, not 0xd00dfeed"),
        (DtError::BadSize { total: 3 }, "size 0x3 is less than a header or more than 2 MiB"),
        (DtError::Truncated { total: 0x100, present: 0x20 }, "truncated: 0x20 bytes of 0x100"),
        (DtError::BadToken { offset: 0x38, token: 7 }, "token 0x7 at 0x38 does not belong there"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}
