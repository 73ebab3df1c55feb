//! A disk in memory that forgets, in a crash, what was not synced.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// What was written since the last sync: from, to.
    dirty: Vec<(usize, usize)>,
}

/// The disk. Cheap to clone; all clones are one disk.
#[derive(Clone, Default)]
pub struct SimDisk {
    content: Arc<Mutex<Content>>,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

impl SimDisk {
    /// A disk with what this one has synced: what is there after a crash. The dead process keeps
    /// the old one.
    pub fn after_crash(&self) -> Self {
        let synced = self.lock().synced.clone();
        Self { content: Arc::new(Mutex::new(Content { bytes: synced.clone(), synced, dirty: Vec::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        u64::try_from(self.lock().bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = index(offset)?;
        let content = self.lock();
        let end = start.saturating_add(out.len());
        let found = content.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().bytes.resize(index(len)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.lock();
        let Content { bytes, synced, dirty } = &mut *content;
        synced.resize(bytes.len(), 0);
        for (start, end) in dirty.drain(..) {
            // what was cut off since is not there any more
            if let (Some(to), Some(from)) = (synced.get_mut(start..end), bytes.get(start..end)) {
                to.copy_from_slice(from);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = index(offset)?;
        let mut content = self.lock();
        let end = start.saturating_add(data.len());
        let room = content.bytes.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        room.copy_from_slice(data);
        content.dirty.push((start, end));
        Ok(())
    }
}
