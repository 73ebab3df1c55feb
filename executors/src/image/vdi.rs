//! How long a VDI must be for all of its blocks to be in it: `qemu-img check` compares its map with
//! everything but the file's length, and reads zeroes beyond the end.
//!
//! The format is that of VirtualBox's `VDICore.h`, as far as qemu reads it (`block/vdi.c`).

use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Where the header says where the map begins, where the blocks begin, how long a block is, and how
/// many the map has.
const OFFSET_MAP: u64 = 0x154;
const OFFSET_DATA: u64 = 0x158;
const BLOCK_SIZE: u64 = 0x178;
const BLOCKS_IN_IMAGE: u64 = 0x180;

/// Entries of the map from here on are blocks that are nowhere: zeroes, or never written.
const NOT_STORED: u32 = 0xffff_fffe;

/// The end of the last block that the map of a VDI knows, in bytes. It may be beyond any file.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if not even the header or the map is whole; if it cannot be read.
pub fn end_of_blocks(mut file: impl Read + Seek) -> io::Result<u64> {
    let mut field = |at| {
        file.seek(SeekFrom::Start(at))?;
        le_u32(&mut file)
    };
    let (map, data) = (field(OFFSET_MAP)?, field(OFFSET_DATA)?);
    let (block, blocks) = (field(BLOCK_SIZE)?, field(BLOCKS_IN_IMAGE)?);
    file.seek(SeekFrom::Start(map.into()))?;
    let mut map = BufReader::new(file);
    let mut stored = 0_u64;
    for _ in 0..blocks {
        let entry = le_u32(&mut map)?;
        if entry < NOT_STORED {
            stored = stored.max(u64::from(entry).saturating_add(1));
        }
    }
    Ok(u64::from(data).saturating_add(stored.saturating_mul(block.into())))
}

fn le_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Cursor, ErrorKind};
    use std::process::Command;

    use proptest::prelude::*;

    use super::end_of_blocks;

    fn vdi(entries: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 0x200];
        let mut put = |at: usize, value: u32| {
            bytes.splice(at..at + 4, value.to_le_bytes());
        };
        put(0x154, 0x200);
        put(0x158, 0x400);
        put(0x178, 1 << 20);
        put(0x180, u32::try_from(entries.len()).unwrap());
        bytes.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        bytes
    }

    #[test]
    fn the_last_block_that_is_stored_counts_wherever_it_is_in_the_map() {
        let (zero, unallocated) = (0xffff_fffe, 0xffff_ffff);
        for (entries, blocks) in [
            (&[][..], 0_u64),
            (&[unallocated, zero], 0),
            (&[0, 1, 2], 3),
            (&[unallocated, 4, zero, 0], 5),
            (&[0xffff_fffd], 0xffff_fffe),
        ] {
            assert_eq!(end_of_blocks(Cursor::new(vdi(entries))).unwrap(), 0x400 + (blocks << 20));
        }
    }

    #[test]
    fn a_map_that_is_not_whole_is_the_end_of_the_file() {
        let whole = vdi(&[0, 1]);
        for end in [0, 0x155, 0x183, whole.len() - 1] {
            let error = end_of_blocks(Cursor::new(whole[..end].to_vec())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{end}");
        }
    }

    #[test]
    fn what_qemu_img_writes_is_as_long_as_its_map_says() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, image) = (folder.path().join("disk"), folder.path().join("image"));
        // the last block of this disk is half a block
        std::fs::write(&disk, [vec![0; 2 << 20], vec![7; 3 << 19]].concat()).unwrap();
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-f", "raw", "-O", "vdi"]).args([&disk, &image]);
        assert!(convert.status().unwrap().success());
        let file = std::fs::File::open(&image).unwrap();
        assert_eq!(end_of_blocks(&file).unwrap(), file.metadata().unwrap().len());
    }

    proptest! {
        #[test]
        fn nonsense_is_an_end_or_an_error_but_never_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048)
        ) {
            drop(end_of_blocks(Cursor::new(bytes)));
        }
    }
}
