//! What `lvs`, `vgs` and `pvs` say, from their JSON.

use serde::Deserialize;
use tephra_domain::effect::{Failure, FailureKind};

use super::extents::{Extents, Segment};

/// The columns of [`Lv`], for `lvs -o`. None of segments, which would repeat the row.
pub const LV_COLUMNS: &str = "lv_name,lv_size,origin,origin_size,pool_lv,lv_tags,lv_attr,lv_active,\
    lv_device_open,lv_suspended,lv_snapshot_invalid,lv_merging,lv_merge_failed,data_percent,metadata_percent";

/// The columns of [`Vg`], for `vgs -o`.
pub const VG_COLUMNS: &str = "vg_name,vg_size,vg_free,vg_extent_size,vg_partial,vg_exported,lv_count";

/// The columns of [`Segment`], for `pvs --segments -o`.
pub const SEGMENT_COLUMNS: &str = "pv_name,pv_uuid,pvseg_start,pvseg_size,vg_extent_size,lv_name";

/// A logical volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lv {
    /// Its name, without the brackets of hidden ones.
    pub name: String,
    /// The space that it takes; of a thin volume, its size.
    pub bytes: u64,
    /// What it is a snapshot of.
    pub origin: Option<String>,
    /// The size of the origin that a thick snapshot shows.
    pub origin_bytes: Option<u64>,
    /// The pool of a thin volume.
    pub pool: Option<String>,
    /// Whether it is a part of another, or what others are made of: nobody's data by itself.
    pub is_part: bool,
    /// Its tags.
    pub tags: Vec<String>,
    /// Ten letters about it (lvs(8)).
    pub attributes: String,
    /// Whether its device is there.
    pub is_active: bool,
    /// Whether somebody has it open.
    pub is_open: bool,
    /// Whether its device takes no requests.
    pub is_suspended: bool,
    /// Whether it is a thick snapshot that has overflowed.
    pub is_invalid: bool,
    /// Whether it is being merged, or being merged into.
    pub is_merging: bool,
    /// Whether a merge went wrong.
    pub merge_failed: bool,
    /// Per cent of its data space that are used: of pools, thick snapshots and running merges.
    pub data_percent: Option<f64>,
    /// Per cent of a pool's metadata that are used.
    pub metadata_percent: Option<f64>,
}

impl Lv {
    /// Whether it is a thick snapshot.
    pub fn is_thick_snapshot(&self) -> bool {
        matches!(self.kind(), Some('s' | 'S'))
    }

    /// Whether it has thick snapshots.
    pub fn has_thick_snapshots(&self) -> bool {
        matches!(self.kind(), Some('o' | 'O'))
    }

    /// Whether it lives in a thin pool.
    pub const fn is_thin(&self) -> bool {
        self.pool.is_some()
    }

    /// Whether it is a thin pool.
    pub fn is_thin_pool(&self) -> bool {
        self.kind() == Some('t')
    }

    /// Whether a thin pool zeroes space before it gives it out.
    pub fn gives_zeroes(&self) -> bool {
        self.attributes.chars().nth(7) == Some('z')
    }

    /// Whether it has a tag.
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }

    /// How many bytes can be read from it.
    pub fn shown_bytes(&self) -> u64 {
        if self.is_thick_snapshot() { self.origin_bytes.unwrap_or(self.bytes) } else { self.bytes }
    }

    fn kind(&self) -> Option<char> {
        self.attributes.chars().next()
    }
}

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vg {
    /// Its size in bytes.
    pub bytes: u64,
    /// What no logical volume takes, in bytes.
    pub free_bytes: u64,
    /// The unit in which it gives space, in bytes.
    pub extent_bytes: u64,
    /// Whether some of its devices are missing.
    pub is_partial: bool,
    /// Whether it was taken away for another host.
    pub is_exported: bool,
    /// How many logical volumes it has.
    pub volumes: u64,
}

#[derive(Deserialize)]
struct Report<T> {
    report: Vec<T>,
}

#[derive(Deserialize)]
struct LvPart {
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct VgPart {
    vg: Vec<VgRow>,
}

// all values are text; yes, no and unknown are 1, 0 and -1 with --binary
#[derive(Deserialize)]
struct LvRow {
    lv_name: String,
    lv_size: String,
    origin: String,
    origin_size: String,
    pool_lv: String,
    lv_tags: String,
    lv_attr: String,
    lv_active: String,
    lv_device_open: String,
    lv_suspended: String,
    lv_snapshot_invalid: String,
    lv_merging: String,
    lv_merge_failed: String,
    data_percent: String,
    metadata_percent: String,
}

#[derive(Deserialize)]
struct VgRow {
    vg_size: String,
    vg_free: String,
    vg_extent_size: String,
    vg_partial: String,
    vg_exported: String,
    lv_count: String,
}

#[derive(Deserialize)]
struct SegmentPart {
    pvseg: Vec<SegmentRow>,
}

#[derive(Deserialize)]
struct SegmentRow {
    pv_name: String,
    pv_uuid: String,
    pvseg_start: String,
    pvseg_size: String,
    vg_extent_size: String,
    lv_name: String,
}

/// The logical volumes that `lvs` printed.
///
/// # Errors
/// `BackendError` for anything but that.
pub fn lvs(json: &[u8]) -> Result<Vec<Lv>, Failure> {
    let report: Report<LvPart> = serde_json::from_slice(json).map_err(|error| strange("lvs", &error))?;
    report.report.into_iter().flat_map(|part| part.lv).map(lv).collect()
}

/// The volume group that `vgs` printed; nothing if it knows none.
///
/// # Errors
/// `BackendError` for anything but that.
pub fn vgs(json: &[u8]) -> Result<Option<Vg>, Failure> {
    let report: Report<VgPart> = serde_json::from_slice(json).map_err(|error| strange("vgs", &error))?;
    report.report.into_iter().flat_map(|part| part.vg).next().map(vg).transpose()
}

/// The parts of the group's disks that `pvs` printed.
///
/// # Errors
/// `BackendError` for anything but that.
pub fn segments(json: &[u8]) -> Result<Vec<Segment>, Failure> {
    let report: Report<SegmentPart> = serde_json::from_slice(json).map_err(|error| strange("pvs", &error))?;
    report.report.into_iter().flat_map(|part| part.pvseg).map(segment).collect()
}

fn segment(row: SegmentRow) -> Result<Segment, Failure> {
    let lv = plain_name(&row.lv_name);
    let (first, count) = (number(&row.pvseg_start)?, number(&row.pvseg_size)?);
    Ok(Segment {
        pv: row.pv_name,
        extents: Extents { uuid: row.pv_uuid, first, count },
        extent_bytes: number(&row.vg_extent_size)?,
        lv: if lv.is_empty() { None } else { Some(lv) },
    })
}

/// The kinds (the first letter of `lv_attr`, lvs(8)) of which volumes and snapshots are: plain, RAID and
/// mirrors with and without initial synchronisation, mirrors under conversion, thick origins and
/// snapshots, thin and virtual volumes. All others are pools and parts.
const TOP_LEVEL: [char; 12] = ['-', 'r', 'R', 'm', 'M', 'c', 'o', 'O', 's', 'S', 'V', 'v'];

/// A cached volume, or the pool that it is cached in, which has none itself.
const CACHE: char = 'C';

/// What is hidden has brackets. A letter alone does not tell: the origin of a cache looks like a thick one.
fn is_part(row: &LvRow) -> bool {
    let kind = row.lv_attr.chars().next().unwrap_or_default();
    let is_of_a_kind = TOP_LEVEL.contains(&kind) || (kind == CACHE && !row.pool_lv.is_empty());
    row.lv_name.starts_with('[') || !is_of_a_kind
}

/// A cached volume has a pool, too.
fn is_thin(row: &LvRow) -> bool {
    row.lv_attr.chars().nth(6) == Some('t')
}

/// Without the brackets of what is hidden.
fn plain_name(name: &str) -> String {
    name.trim_matches(['[', ']']).to_owned()
}

fn lv(row: LvRow) -> Result<Lv, Failure> {
    let text = |text: String| if text.is_empty() { None } else { Some(text) };
    let is_thin = is_thin(&row);
    Ok(Lv {
        is_part: is_part(&row),
        bytes: number(&row.lv_size)?,
        origin: text(row.origin),
        origin_bytes: text(row.origin_size).map(|size| number(&size)).transpose()?,
        pool: text(row.pool_lv).filter(|_| is_thin),
        tags: row.lv_tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
        attributes: row.lv_attr,
        is_active: row.lv_active == "active",
        is_open: row.lv_device_open == "1",
        is_suspended: row.lv_suspended == "1",
        is_invalid: row.lv_snapshot_invalid == "1",
        is_merging: row.lv_merging == "1",
        merge_failed: row.lv_merge_failed == "1",
        data_percent: row.data_percent.parse().ok(),
        metadata_percent: row.metadata_percent.parse().ok(),
        name: plain_name(&row.lv_name),
    })
}

fn vg(row: VgRow) -> Result<Vg, Failure> {
    Ok(Vg {
        bytes: number(&row.vg_size)?,
        free_bytes: number(&row.vg_free)?,
        extent_bytes: number(&row.vg_extent_size)?,
        is_partial: row.vg_partial == "1",
        is_exported: row.vg_exported == "1",
        volumes: number(&row.lv_count)?,
    })
}

fn number(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| strange("lvm2", &format!("{text:?} is no number of bytes")))
}

fn strange(program: &str, what: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::BackendError, format!("{program} printed something else than expected: {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::extents;
    use super::*;

    fn recorded(json: &str) -> Vec<Lv> {
        lvs(json.as_bytes()).unwrap()
    }

    fn by_name<'a>(lvs: &'a [Lv], name: &str) -> &'a Lv {
        lvs.iter().find(|lv| lv.name == name).unwrap()
    }

    #[test]
    fn a_thick_snapshot_is_as_large_as_its_origin_was() {
        let lvs = recorded(include_str!("recorded/thick-snapshot.json"));
        let (origin, snapshot) = (by_name(&lvs, "volume-a"), by_name(&lvs, "s64"));
        assert!(origin.has_thick_snapshots() && !origin.is_thick_snapshot() && !origin.is_thin());
        assert!(snapshot.is_thick_snapshot() && !snapshot.is_invalid && snapshot.is_active);
        assert_eq!((origin.shown_bytes(), snapshot.shown_bytes()), (1 << 30, 1 << 30));
        assert!(snapshot.bytes > 1 << 30, "with room for its own metadata");
        assert_eq!(snapshot.origin.as_deref(), Some("volume-a"));
        assert!(origin.has_tag("tephra"));
    }

    #[test]
    fn a_merge_is_told_from_one_that_waits_for_its_origin() {
        for (json, percent) in [
            (include_str!("recorded/thick-merging.json"), Some(0.0)),
            (include_str!("recorded/thick-merge-deferred.json"), None),
        ] {
            let lvs = recorded(json);
            let (origin, snapshot) = (by_name(&lvs, "volume-a"), by_name(&lvs, "s64"));
            assert!(origin.is_merging && origin.has_thick_snapshots());
            assert!(snapshot.is_merging && snapshot.is_thick_snapshot());
            assert_eq!(origin.data_percent, percent);
        }
    }

    #[test]
    fn use_suspension_and_overflow_are_seen() {
        let open = recorded(include_str!("recorded/thick-open.json"));
        assert!(by_name(&open, "volume-a").is_open && !by_name(&open, "s64").is_open);
        let suspended = recorded(include_str!("recorded/thick-suspended.json"));
        assert!(by_name(&suspended, "volume-a").is_suspended);
        let invalid = recorded(include_str!("recorded/thick-invalid.json"));
        assert!(by_name(&invalid, "small").is_invalid);
    }

    #[test]
    fn thin_volumes_pools_and_inactive_snapshots_are_told_apart() {
        let lvs = recorded(include_str!("recorded/thin.json"));
        let pool = by_name(&lvs, "vg-pool");
        assert!(pool.is_thin_pool() && !pool.is_thin() && pool.is_open && pool.gives_zeroes());
        assert_eq!((pool.data_percent, pool.metadata_percent), (Some(0.0), Some(10.94)));
        let (volume, snapshot) = (by_name(&lvs, "volume-t"), by_name(&lvs, "_snapshot-t"));
        assert!(volume.is_thin() && volume.is_active && !volume.has_thick_snapshots());
        assert!(snapshot.is_thin() && !snapshot.is_active && !snapshot.is_open && !snapshot.is_suspended);
        assert_eq!(snapshot.origin.as_deref(), Some("volume-t"));
        let gone = recorded(include_str!("recorded/thin-origin-gone.json"));
        assert_eq!(by_name(&gone, "_snapshot-t").origin, None);
    }

    /// Attributes as lvs(8) and lvmraid(7) show them.
    #[test]
    fn converted_volumes_are_volumes_and_what_they_are_made_of_is_not() {
        let row = |name: &str, attributes: &str, pool: &str| {
            let row = serde_json::json!({
                "lv_name": name, "lv_size": "1073741824", "origin": "", "origin_size": "", "pool_lv": pool,
                "lv_tags": "", "lv_attr": attributes, "lv_active": "active", "lv_device_open": "0",
                "lv_suspended": "0", "lv_snapshot_invalid": "0", "lv_merging": "", "lv_merge_failed": "",
                "data_percent": "", "metadata_percent": "",
            });
            lv(serde_json::from_value(row).unwrap()).unwrap()
        };
        for (attributes, pool, is_thin) in [
            ("-wi-a-----", "", false),
            ("rwi-a-r---", "", false),
            ("Rwi-aor---", "", false),
            ("mwi-a-m---", "", false),
            ("Mwi-aom---", "", false),
            ("cwi-a-m---", "", false),
            ("Cwi-aoC---", "[fast_cpool]", false),
            ("owi-aos---", "", false),
            ("swi-a-s---", "", false),
            ("Vwi-a-tz--", "pool", true),
            ("Vwi---tz-k", "pool", true),
            ("vwi-a-v---", "vdopool", false),
        ] {
            let lv = row("volume-1", attributes, pool);
            assert_eq!((lv.is_part, lv.is_thin()), (false, is_thin), "{attributes}");
        }
        for (name, attributes, pool) in [
            ("[volume-1_corig]", "owi-aoC---", ""),
            ("[fast_cpool]", "Cwi---C---", ""),
            ("fast", "Cwi---C---", ""),
            ("[volume-1_rimage_0]", "iwi-aor---", ""),
            ("[volume-1_rmeta_0]", "ewi-aor---", ""),
            ("[volume-1_mlog]", "lwi-aom---", ""),
            ("[pool_tdata]", "rwi-aor---", ""),
            ("pool", "twi-aotz--", ""),
            ("vdopool", "dwi-a-v---", ""),
            ("[pvmove0]", "p-C-aom---", ""),
        ] {
            assert!(row(name, attributes, pool).is_part, "{name} {attributes}");
        }
        for (recorded, volumes) in [
            (recorded(include_str!("recorded/thick-snapshot.json")), vec!["volume-a", "s64"]),
            (recorded(include_str!("recorded/thin.json")), vec!["volume-t", "_snapshot-t"]),
        ] {
            let listed = recorded.iter().filter(|lv| !lv.is_part).map(|lv| lv.name.as_str());
            assert!(volumes.iter().all(|name| listed.clone().any(|listed| listed == *name)), "{volumes:?}");
            assert!(!listed.clone().any(|name| name.starts_with("vg-pool") || name.starts_with("lvol")));
        }
    }

    #[test]
    fn a_volume_group_is_read_and_no_group_is_none() {
        let vg = vgs(include_bytes!("recorded/vgs.json")).unwrap().unwrap();
        assert_eq!((vg.bytes, vg.free_bytes, vg.extent_bytes), (42_945_478_656, 41_871_736_832, 4 << 20));
        assert!(!vg.is_partial && !vg.is_exported && vg.volumes == 1);
        assert_eq!(vgs(br#"{"report": [{"vg": []}]}"#).unwrap(), None);
    }

    #[test]
    fn the_extents_of_a_thick_snapshot_are_found_and_what_is_free_is_nobodys() {
        let found = segments(include_bytes!("recorded/segments.json")).unwrap();
        let own = extents::of("s64", &found);
        assert_eq!(own.len(), 1);
        assert_eq!((own[0].first, own[0].count, found[0].extent_bytes), (256, 257, 4 << 20));
        let free: Vec<u64> = found
            .iter()
            .filter(|segment| segment.lv.is_none())
            .map(|segment| segment.extents.count)
            .collect();
        assert_eq!(free, [1534, 2047]);
    }

    /// Whatever a broken pipe or another lvm2 makes of a report, it is read or refused.
    #[test]
    fn a_lost_end_is_refused_and_a_changed_byte_is_no_panic() {
        let samples: [&[u8]; 7] = [
            include_bytes!("recorded/segments.json"),
            include_bytes!("recorded/thick-snapshot.json"),
            include_bytes!("recorded/thick-merging.json"),
            include_bytes!("recorded/thick-suspended.json"),
            include_bytes!("recorded/thin-full.json"),
            include_bytes!("recorded/thin.json"),
            include_bytes!("recorded/vgs.json"),
        ];
        for sample in samples.map(<[u8]>::trim_ascii_end) {
            for at in 0..sample.len() {
                assert!(lvs(&sample[..at]).is_err() && vgs(&sample[..at]).is_err(), "cut at {at}");
                assert!(segments(&sample[..at]).is_err(), "cut at {at}");
                for byte in [0, b'"', b'-', b'9', b'{', 0xff] {
                    let mut changed = sample.to_vec();
                    changed[at] = byte;
                    for lv in lvs(&changed).unwrap_or_default() {
                        assert!(lv.shown_bytes() == lv.bytes || lv.is_thick_snapshot());
                    }
                    let failures = [vgs(&changed).err(), segments(&changed).err()];
                    assert!(
                        failures.iter().flatten().all(|failure| failure.kind == FailureKind::BackendError)
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for json in ["", "[]", "{\"report\": [{\"lv\": [{\"lv_name\": \"a\"}]}]}"] {
            let failure = lvs(json.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, FailureKind::BackendError, "{json}");
        }
    }
}
