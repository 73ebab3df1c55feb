//! How a copy is cut into stretches. Pure.

use tephra_domain::effect::{Failure, FailureKind};

const GIB: u64 = 1 << 30;

/// The most stretches that a volume is cut into. Each costs two or three starts of `qemu-img` (some
/// 10 ms each), and a copy that was killed loses at most one of them.
const MOST_STRETCHES: u64 = 256;

/// Where the bytes of a stretch come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the same place in the source.
    Source,
    /// Nowhere: beyond the source's end a volume holds zeroes.
    Zeroes,
}

/// A part of the target that is copied and compared at one stroke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub length: u64,
    /// What it is to hold.
    pub origin: Origin,
}

/// The stretches of a volume of `target_bytes` that gets the data of something of `source_bytes`, in
/// their order and without gaps.
///
/// # Errors
/// `ObjectMissing` if the source has lost its end, `Mismatch` if it does not fit.
pub fn stretches(source_bytes: u64, target_bytes: u64) -> Result<Vec<Stretch>, Failure> {
    if source_bytes == 0 || !source_bytes.is_multiple_of(GIB) {
        let message = format!("the source has lost its end: it is {source_bytes} bytes long, not whole GiB");
        return Err(Failure::new(FailureKind::ObjectMissing, message));
    }
    if source_bytes > target_bytes {
        let message = format!("the source is {source_bytes} bytes long, more than the {target_bytes} bytes");
        return Err(Failure::new(FailureKind::Mismatch, format!("{message} of the volume")));
    }
    let length = target_bytes.div_ceil(MOST_STRETCHES).next_multiple_of(GIB);
    let mut all = cut(0, source_bytes, length, Origin::Source);
    all.extend(cut(source_bytes, target_bytes, length, Origin::Zeroes));
    Ok(all)
}

fn cut(from: u64, to: u64, length: u64, origin: Origin) -> Vec<Stretch> {
    let mut all = Vec::new();
    let mut start = from;
    while start < to {
        let length = length.min(to.saturating_sub(start));
        all.push(Stretch { start, length, origin });
        start = start.saturating_add(length);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_the_volume_once_and_are_few() {
        for (source, target) in
            [(1, 1), (1, 2), (3, 8), (255, 256), (256, 257), (700, 16_384), (16_384, 16_384)]
        {
            let all = stretches(source * GIB, target * GIB).unwrap();
            let mut end = 0;
            for stretch in &all {
                assert_eq!(stretch.start, end);
                assert!(stretch.length > 0 && stretch.length.is_multiple_of(GIB));
                end += stretch.length;
                let origin = if end <= source * GIB { Origin::Source } else { Origin::Zeroes };
                assert_eq!(stretch.origin, origin, "no stretch is of both: {source} {target}");
            }
            assert_eq!(end, target * GIB);
            assert!(all.len() as u64 <= MOST_STRETCHES + 1, "{source} {target}: {}", all.len());
        }
    }

    #[test]
    fn a_source_is_whole_and_fits() {
        for (source, target, expected) in [
            (0, GIB, FailureKind::ObjectMissing),
            (GIB - 512, GIB, FailureKind::ObjectMissing),
            (2 * GIB, GIB, FailureKind::Mismatch),
        ] {
            let kind = stretches(source, target).map_err(|failure| failure.kind);
            assert_eq!(kind, Err(expected), "{source} {target}");
        }
    }
}
