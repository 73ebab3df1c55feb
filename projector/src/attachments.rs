//! Attachments by id, by volume, by server, and as lists.
//!
//! They live in their volumes' rows. Beside those there is a row that leads from an attachment to
//! its volume, and an entry in each of these orders, so that a page costs what its rows cost:
//!
//! | order | fields before (created, id) | serves |
//! |---|---|---|
//! | [`CREATED`] | scope (a project's, everybody's) | the default order |
//! | [`INSTANCE`] | server | a server's attachments |

use std::collections::BTreeMap;

use redb::WriteTransaction;
use tephra_domain::attachment::Attachment;
use tephra_domain::ids::{AttachmentId, ProjectId, VolumeId};
use tephra_domain::table::Change;
use tephra_domain::volume::Volume;
use uuid::Uuid;

use crate::error::{QueryError, ViewsError};
use crate::key::{self, Key};
use crate::query::{Page, SortDirection};
use crate::row::{Row, RowTable};
use crate::schema;
use crate::views::Views;
use crate::write::{write_entries, write_rows};

const CREATED: u8 = 0;
const INSTANCE: u8 = 1;

/// A list of attachments that is asked for.
#[derive(Clone, Debug)]
pub struct AttachmentQuery {
    /// Only those of this project's volumes; nothing for all.
    pub project: Option<ProjectId>,
    /// Only those of this volume.
    pub volume: Option<VolumeId>,
    /// Only those of this server.
    pub instance: Option<String>,
    /// Only those whose status clients see as this.
    pub status: Option<String>,
    /// By creation, then by id; Cinder's default is newest first.
    pub direction: SortDirection,
    /// The last row of the page before.
    pub marker: Option<AttachmentId>,
    /// Rows to skip after that.
    pub offset: usize,
    /// Rows at most.
    pub limit: usize,
}

/// An attachment with its volume.
#[derive(Clone, Debug)]
pub struct Attached {
    /// The volume.
    pub volume: Volume,
    /// The attachment, one of the volume's.
    pub attachment: Attachment,
}

impl Attached {
    fn of(volume: Volume, id: AttachmentId) -> Option<Self> {
        let attachment = volume.attachment(id)?.clone();
        Some(Self { volume, attachment })
    }

    fn passes(&self, query: &AttachmentQuery) -> bool {
        query.project.as_ref().is_none_or(|project| *project == self.volume.project)
            && query.volume.is_none_or(|volume| volume == self.volume.id)
            && query.instance.as_deref().is_none_or(|id| self.attachment.instance.as_deref() == Some(id))
            && query
                .status
                .as_deref()
                .is_none_or(|status| self.attachment.status.state().wire_name() == status)
    }
}

impl Row for VolumeId {
    fn encode(&self) -> Vec<u8> {
        self.as_uuid().as_bytes().to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Uuid::from_slice(bytes).map(Self::from_uuid).map_err(|error| error.to_string())
    }
}

fn entry(mut prefix: Key, attachment: &Attachment) -> Key {
    key::push_time(&mut prefix, attachment.created_at);
    prefix.extend(attachment.id.as_uuid().as_bytes());
    prefix
}

fn by_scope(project: Option<&ProjectId>) -> Key {
    let mut key = vec![CREATED];
    key::push_scope(&mut key, project);
    key
}

fn by_instance(instance: &str) -> Key {
    let mut key = vec![INSTANCE];
    key::push_text(&mut key, instance);
    key
}

fn entries(volume: &Volume) -> impl Iterator<Item = Key> {
    volume.attachments.iter().flat_map(|attachment| {
        let instance = attachment.instance.as_deref().map(by_instance);
        [by_scope(None), by_scope(Some(&volume.project))]
            .into_iter()
            .chain(instance)
            .map(|prefix| entry(prefix, attachment))
    })
}

/// Writes what has changed among attachments.
pub(crate) fn write_attachments<'a>(
    txn: &WriteTransaction,
    changes: impl Iterator<Item = Change<'a, VolumeId, Volume>>,
) -> Result<(), ViewsError> {
    let mut index: BTreeMap<Key, bool> = BTreeMap::new();
    let mut rows: BTreeMap<AttachmentId, Option<VolumeId>> = BTreeMap::new();
    for (_, old, new) in changes {
        let had_any = [old, new].into_iter().flatten().any(|volume| !volume.attachments.is_empty());
        if !had_any {
            continue;
        }
        if let Some(volume) = old {
            rows.extend(volume.attachments.iter().map(|attachment| (attachment.id, None)));
            index.extend(entries(volume).map(|key| (key, false)));
        }
        if let Some(volume) = new {
            rows.extend(volume.attachments.iter().map(|attachment| (attachment.id, Some(volume.id))));
            index.extend(entries(volume).map(|key| (key, true)));
        }
    }
    let rows = rows.iter().map(|(id, volume)| (id.as_uuid().into_bytes(), volume.as_ref()));
    write_rows(txn, schema::ATTACHMENTS, rows)?;
    write_entries(txn, schema::ATTACHMENT_INDEX, index.iter().map(|(key, stays)| (key, *stays)))
}

impl Views {
    /// An attachment with its volume.
    ///
    /// # Errors
    /// If the file fails or is damaged.
    pub fn attachment(&self, id: AttachmentId) -> Result<Option<Attached>, ViewsError> {
        let txn = self.begin_read()?;
        let Some(volume) =
            RowTable::open(&txn, schema::ATTACHMENTS)?.get::<VolumeId>(id.as_uuid().as_bytes())?
        else {
            return Ok(None);
        };
        let volume = RowTable::open(&txn, schema::VOLUMES)?.must_get(volume.as_uuid().as_bytes())?;
        Ok(Attached::of(volume, id))
    }

    /// A page of attachments.
    ///
    /// # Errors
    /// [`QueryError::MarkerNotFound`]; if the file fails or is damaged.
    pub fn attachments(&self, query: &AttachmentQuery) -> Result<Page<Attached>, QueryError> {
        let marker = match query.marker {
            None => None,
            Some(id) => {
                let found = self.attachment(id)?.filter(|attached| {
                    query.project.as_ref().is_none_or(|project| *project == attached.volume.project)
                });
                Some(found.ok_or_else(|| QueryError::MarkerNotFound { marker: id.to_string() })?.attachment)
            }
        };
        let prefix = match &query.instance {
            Some(instance) => by_instance(instance),
            None => by_scope(query.project.as_ref()),
        };
        let txn = self.begin_read()?;
        let index = txn.open_table(schema::ATTACHMENT_INDEX.definition()).map_err(ViewsError::from)?;
        let (ids, volumes) =
            (RowTable::open(&txn, schema::ATTACHMENTS)?, RowTable::open(&txn, schema::VOLUMES)?);
        let (mut start, mut end) = (prefix.clone(), key::after_prefix(&prefix).unwrap_or_default());
        if let Some(marker) = &marker {
            let at = entry(prefix, marker);
            match query.direction {
                SortDirection::Descending => end = at,
                // nothing lies between a key and the same key with a zero behind it
                SortDirection::Ascending => start = [at.as_slice(), &[0]].concat(),
            }
        }
        let mut range = index.range::<&[u8]>(start.as_slice()..end.as_slice()).map_err(ViewsError::from)?;
        let mut rows = Vec::new();
        let mut skip = query.offset;
        while rows.len() < query.limit {
            let next = match query.direction {
                SortDirection::Descending => range.next_back(),
                SortDirection::Ascending => range.next(),
            };
            let Some(next) = next else { break };
            let (key, ()) = next.map(|(key, unit)| (key, unit.value())).map_err(ViewsError::from)?;
            let Some(id) = key.value().last_chunk::<16>() else { continue };
            let volume: VolumeId = ids.must_get(id)?;
            let volume: Volume = volumes.must_get(volume.as_uuid().as_bytes())?;
            let attached = Attached::of(volume, AttachmentId::from_uuid(Uuid::from_bytes(*id)));
            let Some(attached) = attached.filter(|attached| attached.passes(query)) else { continue };
            if skip > 0 {
                skip = skip.saturating_sub(1);
            } else {
                rows.push(attached);
            }
        }
        Ok(Page { rows, count: None })
    }
}
