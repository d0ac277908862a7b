// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text and records on one wire, and how to take them apart again.
//!
//! A record is an rzCOBS frame, which has no zero byte, between two [`MARK`]s; text has no zero byte either:
//!
//! ```text
//!   text.. 00 frame 00 text.. 00 frame 00 00 frame 00 text..
//! ```
//!
//! Whoever listens from the start tells them apart by counting marks; whoever joins later, or has lost a byte, by
//! trying: what is no frame was text, and the mark behind it begins one. To defmt's own tools text is one broken
//! frame, which they skip.

/// Stands before and behind each frame, and nowhere else.
pub const MARK: u8 = 0;

/// Takes apart what comes over the wire.
#[cfg(not(target_os = "none"))]
#[derive(Debug, Default)]
pub struct Splitter {
    /// Inside a frame, or what may be one: the bytes so far.
    frame: Option<Vec<u8>>,
}

/// What comes out of a [`Splitter`].
#[cfg(not(target_os = "none"))]
pub trait Listener {
    /// Text, as much as there was.
    fn text(&mut self, text: &[u8]);
    /// Bytes between two marks; tells whether they are a frame.
    fn frame(&mut self, frame: &[u8]) -> bool;
}

#[cfg(not(target_os = "none"))]
impl Splitter {
    /// The next bytes.
    pub fn feed(&mut self, bytes: &[u8], listener: &mut impl Listener) {
        for (n, piece) in bytes.split(|byte| *byte == MARK).enumerate() {
            if n > 0 {
                self.mark(listener);
            }
            match &mut self.frame {
                Some(frame) => frame.extend_from_slice(piece),
                None if piece.is_empty() => {}
                None => listener.text(piece),
            }
        }
    }

    /// Nothing comes any more: what was no whole frame may be read as text.
    pub fn end(&mut self, listener: &mut impl Listener) {
        if let Some(frame) = self.frame.take().filter(|frame| !frame.is_empty()) {
            listener.text(&frame);
        }
    }

    fn mark(&mut self, listener: &mut impl Listener) {
        match &mut self.frame {
            None => self.frame = Some(Vec::new()),
            // Two marks in a row: the second one begins a frame.
            Some(frame) if frame.is_empty() => {}
            Some(frame) if listener.frame(frame) => self.frame = None,
            Some(frame) => {
                listener.text(frame);
                frame.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, PartialEq, Eq, Debug)]
    enum Piece {
        Text(Vec<u8>),
        Frame(Vec<u8>),
    }

    /// Knows frames by their first byte.
    #[derive(Default)]
    struct Heard(Vec<Piece>);

    impl Listener for Heard {
        fn text(&mut self, text: &[u8]) {
            match self.0.last_mut() {
                Some(Piece::Text(before)) => before.extend_from_slice(text),
                _ => self.0.push(Piece::Text(text.to_vec())),
            }
        }

        fn frame(&mut self, frame: &[u8]) -> bool {
            let is_frame = frame.first().is_some_and(|byte| *byte >= 0x80);
            if is_frame {
                self.0.push(Piece::Frame(frame.to_vec()));
            }
            is_frame
        }
    }

    fn heard(wire: &[&[u8]]) -> Vec<Piece> {
        let (mut splitter, mut heard) = (Splitter::default(), Heard::default());
        wire.iter().for_each(|bytes| splitter.feed(bytes, &mut heard));
        splitter.end(&mut heard);
        heard.0
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn text_and_frames_come_apart() {
        let frame = |byte| Piece::Frame(vec![0x80, byte]);
        assert_eq!(
            heard(&[b"boot\n\0\x80", b"\x01\0more\n\0\x80\x02\0\0\x80\x03\0", b"end"]),
            [text("boot\n"), frame(1), text("more\n"), frame(2), frame(3), text("end")]
        );
        assert_eq!(heard(&[b"\0\x80\x01\0"]), [frame(1)]);
    }

    #[test]
    fn who_joins_late_finds_the_frames_again() {
        // Cut inside a frame; then a mark got lost.
        assert_eq!(
            heard(&[b"\x02\0text\n\0\x80\x01\0text\n\x80\x02\0text\n\0\x80\x03\0"]),
            [
                Piece::Text(b"\x02text\n".to_vec()),
                Piece::Frame(vec![0x80, 1]),
                Piece::Text(b"text\n\x80\x02text\n".to_vec()),
                Piece::Frame(vec![0x80, 3])
            ]
        );
        assert_eq!(heard(&[b"\0cut off"]), [text("cut off")]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_is_lost_however_it_is_cut(
            pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(1_u8..=255, 1..20)), 0..20),
            cut in 1_usize..30,
        ) {
            let mut wire = Vec::new();
            let mut sent = Heard::default();
            for (is_frame, mut bytes) in pieces {
                if is_frame {
                    bytes[0] |= 0x80;
                    sent.frame(&bytes);
                    wire.extend([&[MARK], bytes.as_slice(), &[MARK]].concat());
                } else {
                    sent.text(&bytes);
                    wire.extend(bytes);
                }
            }
            let cuts: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(heard(&cuts), sent.0);
        }
    }
}
