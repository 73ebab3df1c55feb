//! What `rbd` and `ceph` print as JSON, as far as it is needed.

use serde::Deserialize;

/// Of `rbd info`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Image {
    /// Stays the same under another name, and in the trash.
    pub id: String,
    /// In bytes; of the snapshot, if it was asked for one.
    pub size: u64,
    /// With those that are in the snapshots' own trash.
    #[serde(default)]
    pub snapshot_count: u32,
    /// Where unwritten data comes from.
    pub parent: Option<Parent>,
    /// `"true"` or `"false"`, if it was asked for a snapshot.
    protected: Option<String>,
}

impl Image {
    /// Whether the snapshot that it was asked for is protected.
    pub fn is_protected(&self) -> bool {
        is_true(self.protected.as_deref())
    }
}

fn is_true(word: Option<&str>) -> bool {
    word == Some("true")
}

/// The snapshot that an image is a clone of.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Parent {
    /// May be another than the clone's.
    pub pool: String,
    /// The image's name; in the trash the one that it had.
    pub image: String,
    /// The image's id.
    pub id: String,
    /// The snapshot's name; a UUID if it is in the snapshots' trash.
    pub snapshot: String,
    /// Whether the image is in the trash.
    #[serde(default)]
    pub trash: bool,
}

/// Of `rbd snap ls --all`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// Unique in the pool.
    pub id: u64,
    /// A UUID if it is in the snapshots' trash.
    pub name: String,
    namespace: Namespace,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Namespace {
    r#type: String,
}

impl Snapshot {
    /// Whether it is in the snapshots' trash: removed, but clones need it still.
    pub fn is_in_trash(&self) -> bool {
        self.namespace.r#type == "trash"
    }
}

/// Of `rbd status`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// Who has the image open.
    pub watchers: Vec<Watcher>,
}

/// Somebody who has an image open.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Watcher {
    /// `address:port/nonce`.
    pub address: String,
}

/// Of `rbd trash ls`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Trashed {
    /// The image's id.
    pub id: String,
    /// The name that it had.
    pub name: String,
}

/// Of `rbd ls --long`: an image or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// The image's name.
    pub image: String,
    /// The snapshot's name, if it is one.
    pub snapshot: Option<String>,
    /// In bytes.
    pub size: u64,
    /// Whether somebody holds the image's lock, and which kind of lock.
    pub lock_type: Option<String>,
}

/// Of `rbd diff`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Extent {
    /// In bytes.
    pub offset: u64,
    /// In bytes.
    pub length: u64,
    /// `"true"` if there is data.
    exists: String,
}

impl Extent {
    /// Whether it holds data beyond an offset.
    pub fn is_beyond(&self, bytes: u64) -> bool {
        is_true(Some(&self.exists)) && self.offset.saturating_add(self.length) > bytes
    }
}

/// Of `ceph df`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Usage {
    /// Of the whole cluster.
    pub stats: ClusterUsage,
    /// Of each pool.
    pub pools: Vec<PoolUsage>,
}

/// Of the whole cluster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ClusterUsage {
    /// All OSDs together; 0 if no manager says so.
    pub total_bytes: u64,
}

/// Of a pool.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PoolUsage {
    /// The pool's name.
    pub name: String,
    /// Figures.
    pub stats: PoolFigures,
}

/// Figures of a pool, with copies for safety counted once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PoolFigures {
    /// What is stored. Clusters before Nautilus have `bytes_used` alone.
    stored: Option<u64>,
    bytes_used: u64,
    /// What can be stored yet, before an OSD is full.
    pub max_avail: u64,
}

impl PoolFigures {
    /// Bytes that are stored.
    pub fn stored(&self) -> u64 {
        self.stored.unwrap_or(self.bytes_used)
    }
}

/// Of `ceph fsid`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Fsid {
    /// The cluster's id.
    pub fsid: String,
}

/// Of `ceph mon dump`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Monitors {
    mons: Vec<Monitor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Monitor {
    /// `host:port/nonce`, for clients of the first protocol; with port 0 where they have no place.
    addr: String,
    #[serde(default)]
    public_addrs: Addresses,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Addresses {
    addrvec: Vec<Address>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Address {
    addr: String,
}

impl Monitors {
    /// Hosts, without brackets, and ports.
    pub fn addresses(&self) -> Vec<(String, String)> {
        self.mons.iter().filter_map(Monitor::address).collect()
    }
}

impl Monitor {
    fn address(&self) -> Option<(String, String)> {
        let other = self.public_addrs.addrvec.iter().map(|address| address.addr.as_str());
        let mut split = std::iter::once(self.addr.as_str()).chain(other).filter_map(|addr| {
            let place = addr.split_once('/').map_or(addr, |(place, _)| place);
            place.rsplit_once(':').filter(|(_, port)| *port != "0")
        });
        let (host, port) = split.next()?;
        Some((host.trim_matches(['[', ']']).to_owned(), port.to_owned()))
    }
}

/// Of `ceph osd pool ls detail`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PoolDetail {
    /// The pool's name.
    pub pool_name: String,
    /// With commas: `full` and `full_quota` if nothing can be written.
    pub flags_names: String,
    /// 0 if there is none.
    pub quota_max_bytes: u64,
}

impl PoolDetail {
    /// Why nothing can be written into the pool, if nothing can.
    pub fn full(&self) -> Option<&'static str> {
        let has = |flag: &str| self.flags_names.split(',').any(|name| name == flag);
        if has("full_quota") {
            Some("has reached its quota")
        } else if has("full") {
            Some("is full")
        } else {
            None
        }
    }
}

/// What a pool has, and what it could take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// All of it.
    pub total: u64,
    /// What is free.
    pub free: u64,
}

/// Like Cinder with `report_dynamic_total_capacity`: what is stored and what can be stored yet. A
/// quota bounds both.
pub fn capacity(figures: PoolFigures, detail: &PoolDetail) -> Capacity {
    let stored = figures.stored();
    let free = match detail.quota_max_bytes {
        0 => figures.max_avail,
        quota => figures.max_avail.min(quota.saturating_sub(stored)),
    };
    let free = if detail.full().is_some() { 0 } else { free };
    Capacity { total: stored.saturating_add(free).max(detail.quota_max_bytes.min(stored)), free }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed<T: for<'a> Deserialize<'a>>(text: &str) -> T {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_image_a_clone_and_a_snapshot_are_told_apart() {
        let image: Image = parsed(include_str!("recorded/info.json"));
        assert_eq!((image.size, image.snapshot_count, &image.parent), (1 << 30, 1, &None));
        let clone: Image = parsed(include_str!("recorded/info-clone.json"));
        let parent = clone.parent.clone().unwrap();
        assert_eq!(
            (parent.pool.as_str(), parent.image.as_str(), parent.trash),
            ("volumes", "volume-a", false)
        );
        let orphan: Image = parsed(include_str!("recorded/info-clone-of-trash.json"));
        assert!(orphan.parent.unwrap().trash);
        let snapshot: Image = parsed(include_str!("recorded/info-snapshot.json"));
        assert!(snapshot.is_protected() && !image.is_protected());
    }

    #[test]
    fn a_removed_snapshot_that_clones_need_is_in_the_trash() {
        let snapshots: Vec<Snapshot> = parsed(include_str!("recorded/snap-ls.json"));
        let seen: Vec<(bool, bool)> =
            snapshots.iter().map(|snapshot| (snapshot.is_in_trash(), snapshot.name == "s2")).collect();
        assert_eq!(seen, [(true, false), (false, true)]);
    }

    #[test]
    fn lists_of_images_of_trash_and_of_watchers_are_read() {
        let listed: Vec<Listed> = parsed(include_str!("recorded/ls.json"));
        assert!(listed.iter().any(|listed| listed.snapshot.is_some()));
        assert!(listed.iter().any(|listed| listed.lock_type.as_deref() == Some("exclusive")));
        let trash: Vec<Trashed> = parsed(include_str!("recorded/trash-ls.json"));
        assert_eq!(trash.first().map(|entry| entry.name.as_str()), Some("volume-a"));
        let status: Status = parsed(include_str!("recorded/status.json"));
        assert_eq!(status.watchers.len(), 1);
        let none: Status = parsed(r#"{"watchers":[]}"#);
        assert!(none.watchers.is_empty());
    }

    #[test]
    fn data_beyond_an_offset_is_seen() {
        let extents: Vec<Extent> = parsed(include_str!("recorded/diff.json"));
        assert!(extents.iter().any(|extent| extent.is_beyond(1 << 30)));
        assert!(!extents.iter().any(|extent| extent.is_beyond(2 << 30)));
    }

    /// Parses a sample with its end lost, and with each byte changed. What is read nevertheless is
    /// looked at.
    fn broken<T: for<'a> Deserialize<'a>>(sample: &str, look: impl Fn(T)) {
        let sample = sample.trim_end().as_bytes();
        for at in 0..sample.len() {
            assert!(serde_json::from_slice::<T>(&sample[..at]).is_err(), "cut at {at}");
            for byte in [0, b'"', b'-', b'9', b'{', 0xff] {
                let mut changed = sample.to_vec();
                changed[at] = byte;
                if let Ok(read) = serde_json::from_slice(&changed) {
                    look(read);
                }
            }
        }
    }

    #[test]
    fn a_lost_end_is_refused_and_a_changed_byte_is_no_panic() {
        broken(include_str!("recorded/info-clone.json"), |image: Image| {
            image.is_protected();
        });
        broken(include_str!("recorded/info-snapshot.json"), |image: Image| {
            image.is_protected();
        });
        broken(include_str!("recorded/snap-ls.json"), |all: Vec<Snapshot>| {
            assert!(all.iter().filter(|snapshot| snapshot.is_in_trash()).count() <= all.len());
        });
        broken(include_str!("recorded/status.json"), |_: Status| {});
        broken(include_str!("recorded/trash-ls.json"), |_: Vec<Trashed>| {});
        broken(include_str!("recorded/ls.json"), |_: Vec<Listed>| {});
        broken(include_str!("recorded/diff.json"), |all: Vec<Extent>| {
            assert!(!all.iter().any(|extent| extent.is_beyond(u64::MAX)));
        });
        let details: Vec<PoolDetail> = parsed(include_str!("recorded/pool-ls-detail.json"));
        broken(include_str!("recorded/df.json"), |usage: Usage| {
            for pool in usage.pools {
                let capacity = capacity(pool.stats, &details[0]);
                assert!(capacity.free <= capacity.total, "{capacity:?}");
            }
        });
        let usage: Usage = parsed(include_str!("recorded/df.json"));
        broken(include_str!("recorded/pool-ls-detail.json"), |details: Vec<PoolDetail>| {
            for detail in details {
                let capacity = capacity(usage.pools[0].stats, &detail);
                assert!(capacity.free <= capacity.total, "{capacity:?}");
            }
        });
    }

    #[test]
    fn capacity_is_what_the_pool_and_its_quota_leave() {
        let usage: Usage = parsed(include_str!("recorded/df.json"));
        let details: Vec<PoolDetail> = parsed(include_str!("recorded/pool-ls-detail.json"));
        let figures = usage.pools.first().unwrap().stats;
        let detail = details.first().unwrap().clone();
        assert_eq!((detail.pool_name.as_str(), detail.full()), ("volumes", None));
        let free = figures.max_avail;
        assert_eq!(capacity(figures, &detail), Capacity { total: free + figures.stored(), free });

        let quota = PoolDetail { quota_max_bytes: 1 << 30, ..detail.clone() };
        let bounded = capacity(figures, &quota);
        assert_eq!(bounded, Capacity { total: 1 << 30, free: (1 << 30) - figures.stored() });

        let flags_names = "hashpspool,full,full_quota".to_owned();
        let full = PoolDetail { quota_max_bytes: 1, flags_names, ..detail };
        assert_eq!(full.full(), Some("has reached its quota"));
        assert_eq!(capacity(figures, &full).free, 0);
        assert!(capacity(figures, &full).total > 0);
    }

    #[test]
    fn monitors_are_found_by_either_protocol() {
        let text = r#"{"epoch": 1, "mons": [
            {"rank": 0, "name": "a", "addr": "192.0.2.1:6789/0",
             "public_addrs": {"addrvec": [{"type": "v2", "addr": "192.0.2.1:3300", "nonce": 0},
                                          {"type": "v1", "addr": "192.0.2.1:6789", "nonce": 0}]}},
            {"rank": 1, "name": "b", "addr": "[2001:db8::1]:6789/0"},
            {"rank": 2, "name": "c", "addr": "0.0.0.0:0/0",
             "public_addrs": {"addrvec": [{"type": "v2", "addr": "127.0.0.1:21234", "nonce": 0}]}}]}"#;
        let pairs = [("192.0.2.1", "6789"), ("2001:db8::1", "6789"), ("127.0.0.1", "21234")];
        let expected = pairs.map(|(host, port)| (host.to_owned(), port.to_owned()));
        assert_eq!(parsed::<Monitors>(text).addresses(), expected);
    }
}
