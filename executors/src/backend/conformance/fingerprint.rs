//! Data by its checksum, wherever the holes are.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom, seek};
use sha2::{Digest, Sha256};

use super::BLOCK_BYTES;
use crate::backend::directory::copy;

/// How much of a device is read at once.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The size and a digest of every block that is not zeroes, with its place: equal if and only if
/// the bytes are equal, wherever the holes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The size in bytes.
    pub bytes: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// Of blocks in their order, those of zeroes left out by the caller or here.
    pub fn of_blocks<'a>(bytes: u64, blocks: impl IntoIterator<Item = (u64, &'a [u8])>) -> Self {
        let mut digest = Sha256::new();
        for (block, content) in blocks {
            add_block(&mut digest, block, content);
        }
        Self { bytes, sha256: hex::encode(digest.finalize()) }
    }

    /// Of a block device, past the page cache: what other devices changed under it is seen.
    ///
    /// # Errors
    /// Of opening and reading it.
    pub fn of_device(path: &Path) -> io::Result<Self> {
        Self::of_device_where(path, |_, _| true)
    }

    /// Of those chunks of a block device, of [`CHUNK_BYTES`] each, that `is_read` takes by their
    /// beginning and the size of the device.
    ///
    /// # Errors
    /// Of opening and reading it.
    pub fn of_device_where(path: &Path, is_read: impl Fn(u64, u64) -> bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let device = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let bytes = seek(&device, SeekFrom::End(0))?;
        // direct reads go to whole pages of memory
        let mut buffer = vec![0; CHUNK_BYTES + 4096];
        let start = buffer.as_ptr().align_offset(4096);
        let chunk = buffer.get_mut(start..start + CHUNK_BYTES).unwrap_or_default();
        let zeroes = vec![0; CHUNK_BYTES];
        let mut digest = Sha256::new();
        let mut at = 0;
        while at < bytes {
            let length = chunk.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
            let Some(chunk) = chunk.get_mut(..length) else { break };
            if !is_read(at, bytes) {
                at += length as u64;
                continue;
            }
            device.read_exact_at(chunk, at)?;
            // most of it is zeroes, and comparing them at once is what this takes its time with
            if zeroes.get(..length) != Some(&*chunk) {
                for (block, content) in (at / BLOCK_BYTES..).zip(chunk.chunks(4096)) {
                    add_block(&mut digest, block, content);
                }
            }
            at += length as u64;
        }
        Ok(Self { bytes, sha256: hex::encode(digest.finalize()) })
    }

    /// Of a file; holes are not read.
    ///
    /// # Errors
    /// Of opening and reading it.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut digest = Sha256::new();
        for extent in copy::extents(&file, 0, bytes) {
            let (start, end) = extent?;
            // extents begin and end where the file system's blocks do
            let (start, end) = (start - start % BLOCK_BYTES, end.next_multiple_of(BLOCK_BYTES).min(bytes));
            copy::for_each_block(&file, start, end, &|| true, &mut |at, content| {
                add_block(&mut digest, at / BLOCK_BYTES, content);
                Ok(())
            })?;
        }
        Ok(Self { bytes, sha256: hex::encode(digest.finalize()) })
    }
}

fn add_block(digest: &mut Sha256, block: u64, content: &[u8]) {
    let used = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if let Some(used) = content.get(..used).filter(|used| !used.is_empty()) {
        digest.update(block.to_le_bytes());
        digest.update((used.len() as u64).to_le_bytes());
        digest.update(used);
    }
}
