// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values in metadata, for as long as the metadata lives.

use core::mem::MaybeUninit;

/// Words of metadata for so many values.
pub(super) const fn words<T>(count: usize) -> usize {
    (size_of::<T>() * count).div_ceil(size_of::<u64>()) + align_of::<T>() / size_of::<u64>()
}

/// Puts values into `metadata`, which may hold anything; as many as fit. They are never dropped.
pub(super) fn place<T>(metadata: &mut [u64], values: impl Iterator<Item = T>) -> &mut [T] {
    // SAFETY: any bytes are uninitialised memory.
    let (_, places, _) = unsafe { metadata.align_to_mut::<MaybeUninit<T>>() };
    let mut count = 0;
    for (place, value) in places.iter_mut().zip(values) {
        place.write(value);
        count += 1;
    }
    let written = places.get_mut(..count).unwrap_or_default();
    // SAFETY: the first `count` were just written.
    unsafe { written.assume_init_mut() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_fit_where_they_were_counted() {
        #[repr(align(64))]
        struct Line(u8);
        for offset in 0..9 {
            let mut metadata = vec![!0u64; offset + words::<Line>(3)];
            let lines = place(&mut metadata[offset..], (0..3).map(Line));
            assert_eq!(lines.iter().map(|line| line.0).collect::<Vec<_>>(), [0, 1, 2]);
        }
        assert_eq!(place(&mut [], 0..3u64), &mut []);
    }
}
