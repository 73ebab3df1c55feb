//! What is in a volume's file: a number says all of it.
//!
//! Content 0 is zeroes. Any other content is a set of 64 KiB blocks within the first GiB that follow
//! from the number, and zeroes elsewhere. So the check needs no copy of the data, and sees stale
//! blocks, lost blocks, shifted blocks and blocks of other volumes.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

pub const GIB: u64 = 1 << 30;
const BLOCK: u64 = 64 * 1024;
const BLOCK_LEN: usize = 64 * 1024;
const BLOCKS: u64 = GIB / BLOCK;
/// Blocks at the beginning, in a row: enough that a copy of them takes a moment.
const HEAD: u64 = 48;
/// Blocks spread over the rest, one in each stretch of this many.
const STRIDE: u64 = 1024;

/// The places of a content's blocks, which differ between contents, so that an overwrite that is
/// lost half-way leaves a mixture.
fn places(content: u64) -> Vec<u64> {
    if content == 0 {
        return Vec::new();
    }
    let spread = (1..BLOCKS / STRIDE).map(|n| n * STRIDE + content % STRIDE);
    (0..HEAD).chain(spread).chain([BLOCKS - 1]).collect()
}

/// A block: the same bytes all over but for its place.
fn block(content: u64, place: u64) -> Vec<u8> {
    let mut bytes = content.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(BLOCK_LEN / 8);
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    bytes
}

/// Replaces what `old` wrote by `new`.
pub fn overwrite(path: &Path, old: u64, new: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path).with_context(|| format!("{}", path.display()))?;
    for place in places(old) {
        file.write_all_at(&vec![0; BLOCK_LEN], place * BLOCK)?;
    }
    for place in places(new) {
        file.write_all_at(&block(new, place), place * BLOCK)?;
    }
    file.sync_all()?;
    Ok(())
}

/// Insists that a file has this size and this content, every byte of it.
pub fn check(path: &Path, size_gib: u64, content: u64) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let file = File::open(path).with_context(|| format!("{name} is missing"))?;
    let length = file.metadata()?.len();
    ensure!(length == size_gib * GIB, "{name} has {length} bytes, not {size_gib} GiB");
    let mut wanted = places(content);
    wanted.reverse();
    for place in data_blocks(&file, length)? {
        let mut bytes = vec![0; BLOCK_LEN];
        file.read_exact_at(&mut bytes, place * BLOCK)?;
        if wanted.last() == Some(&place) {
            wanted.pop();
            ensure!(bytes == block(content, place), "{name}: block {place} is not that of content {content}");
        } else {
            ensure!(bytes.iter().all(|byte| *byte == 0), "{name}: block {place} should be zeroes");
        }
    }
    ensure!(wanted.is_empty(), "{name}: blocks {wanted:?} of content {content} are holes");
    Ok(())
}

/// The blocks that may hold anything but zeroes, in order.
fn data_blocks(file: &File, length: u64) -> Result<Vec<u64>> {
    let mut blocks: Vec<u64> = Vec::new();
    let mut position = 0;
    while position < length {
        let data = match seek(file, SeekFrom::Data(position)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        position = seek(file, SeekFrom::Hole(data))?;
        let first = (data / BLOCK).max(blocks.last().map_or(0, |last| last + 1));
        blocks.extend(first..position.div_ceil(BLOCK));
    }
    Ok(blocks)
}
