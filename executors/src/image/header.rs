//! What an image file says of itself in its first bytes.
//!
//! `qemu-img info` opens what a file refers to, and that is the attack: a qcow2 whose data file is
//! `/etc/shadow` (CVE-2024-32498), a VMDK whose extent is (CVE-2022-47951), a "raw" image that is a
//! qcow2 when it is probed (OSSA-2024-001). So these bytes are read here first, without following
//! anything. Formats: qemu's `docs/interop/qcow2.txt` and `block/{vmdk,vdi,vpc,vhdx,qed,luks}.c`.

use std::fmt;

/// Bytes of the beginning that [`detect`] wants to see.
pub const HEAD_BYTES: usize = 64 * 1024;

/// Bytes of the end that it wants to see: where a fixed VHD says what it is.
pub const TAIL_BYTES: usize = 512;

/// What a file is, by its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Nothing that is known: the bytes of a disk.
    Raw,
    /// qcow2, or its forerunner.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Virtual PC's, which `qemu-img` calls `vpc`.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// An abandoned one of qemu's.
    Qed,
    /// An encrypted disk.
    Luks,
}

impl Format {
    /// The format that a store's `disk_format` means, if volumes can be made of it.
    pub fn declared(disk_format: &str) -> Option<Self> {
        Some(match disk_format {
            // the bytes of a CD are a disk as well
            "raw" | "iso" => Self::Raw,
            "qcow2" => Self::Qcow2,
            "vmdk" => Self::Vmdk,
            "vdi" => Self::Vdi,
            "vhd" | "vpc" => Self::Vhd,
            "vhdx" => Self::Vhdx,
            _ => return None,
        })
    }

    /// The name of the driver of `qemu-img`.
    pub const fn driver(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
            Self::Qed => "qed",
            Self::Luks => "luks",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vhd => "vhd",
            Self::Raw | Self::Qcow2 | Self::Vmdk | Self::Vdi | Self::Vhdx | Self::Qed | Self::Luks => {
                self.driver()
            }
        })
    }
}

/// Why a file may not be handed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not what its store says.
    #[error("it is declared as {declared}, but its file is {found}")]
    OtherFormat {
        /// What the store says.
        declared: Format,
        /// What the file says.
        found: Format,
    },
    /// It needs another file.
    #[error("it has a {0}, which a volume's image may not have")]
    Refers(&'static str),
    /// Its header cannot be read.
    #[error("its {0} header makes no sense")]
    Senseless(Format),
}

/// What the file is.
pub fn detect(head: &[u8], tail: &[u8]) -> Format {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    if at(0, b"QFI\xFB") {
        Format::Qcow2
    } else if at(0, b"KDMV") || at(0, b"COWD") || at(0, b"# Disk DescriptorFile") {
        Format::Vmdk
    } else if at(0x40, &0xBEDA_107F_u32.to_le_bytes()) {
        Format::Vdi
    } else if at(0, b"conectix") || tail.starts_with(b"conectix") {
        Format::Vhd
    } else if at(0, b"vhdxfile") {
        Format::Vhdx
    } else if at(0, b"QED\0") {
        Format::Qed
    } else if at(0, b"LUKS\xBA\xBE") {
        Format::Luks
    } else {
        Format::Raw
    }
}

/// Checks a file against what it is declared as, and that it is whole by itself.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn vet(declared: Format, head: &[u8], tail: &[u8]) -> Result<(), Refusal> {
    let found = detect(head, tail);
    if found != declared {
        return Err(Refusal::OtherFormat { declared, found });
    }
    match found {
        Format::Qcow2 => vet_qcow2(head),
        Format::Vmdk => vet_vmdk(head),
        Format::Vhd => vet_vhd(head, tail),
        Format::Raw | Format::Vdi | Format::Vhdx => Ok(()),
        Format::Qed | Format::Luks => Err(Refusal::Senseless(found)),
    }
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Bit 2 of qcow2's incompatible features: the data are in another file.
const EXTERNAL_DATA_FILE: u64 = 1 << 2;

fn vet_qcow2(head: &[u8]) -> Result<(), Refusal> {
    let senseless = Refusal::Senseless(Format::Qcow2);
    let version = be_u32(head, 4).ok_or_else(|| senseless.clone())?;
    if be_u64(head, 8).ok_or_else(|| senseless.clone())? != 0 {
        return Err(Refusal::Refers("backing file"));
    }
    match version {
        2 => Ok(()),
        3 => {
            let features = be_u64(head, 72).ok_or(senseless)?;
            if features & EXTERNAL_DATA_FILE == 0 { Ok(()) } else { Err(Refusal::Refers("data file")) }
        }
        _ => Err(senseless),
    }
}

/// The kinds of VMDK that are whole by themselves (Cinder's `vmdk_allowed_types`).
const WHOLE_VMDKS: &[&str] = &["monolithicSparse", "streamOptimized"];

/// qemu reads descriptors by the first place where a word stands, comments included, and follows
/// the extents of one whose header gives no capacity: what could be read in two ways is refused.
fn vet_vmdk(head: &[u8]) -> Result<(), Refusal> {
    let senseless = || Refusal::Senseless(Format::Vmdk);
    if !head.starts_with(b"KDMV") || le_u64(head, 12) == Some(0) {
        // a descriptor alone, whose data are elsewhere, or a format before 2004
        return Err(Refusal::Refers("separate extent"));
    }
    if occurrences(head, b"parentFileNameHint") > 0 {
        return Err(Refusal::Refers("backing file"));
    }
    let sectors = |at| le_u64(head, at).and_then(|sectors| usize::try_from(sectors.checked_mul(512)?).ok());
    let (offset, size) = (sectors(28).ok_or_else(senseless)?, sectors(36).ok_or_else(senseless)?);
    let end = offset.checked_add(size).ok_or_else(senseless)?;
    let descriptor = head.get(offset..end).filter(|text| !text.is_empty()).ok_or_else(senseless)?;
    let text = descriptor.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text).map_err(|_| senseless())?;
    if occurrences(head, b"createType") != 1 || occurrences(head, b"parentCID") > 1 {
        return Err(senseless());
    }
    let value = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim().trim_matches('"'))
    };
    if !value("createType").is_some_and(|kind| WHOLE_VMDKS.contains(&kind)) {
        return Err(Refusal::Refers("separate extent"));
    }
    if value("parentCID").is_some_and(|cid| cid != "ffffffff") {
        return Err(Refusal::Refers("backing file"));
    }
    let mut extents = text.lines().filter(|line| {
        ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.trim_start().starts_with(access))
    });
    let is_sparse = |line: &str| line.split_whitespace().nth(2) == Some("SPARSE");
    match (extents.next(), extents.next()) {
        (Some(extent), None) if is_sparse(extent) => Ok(()),
        (Some(_) | None, _) => Err(Refusal::Refers("separate extent")),
    }
}

fn occurrences(bytes: &[u8], word: &[u8]) -> usize {
    bytes.windows(word.len()).filter(|window| *window == word).count()
}

/// The disk type of a VHD that holds differences to another.
const DIFFERENCING: u32 = 4;

fn vet_vhd(head: &[u8], tail: &[u8]) -> Result<(), Refusal> {
    let footer = if head.starts_with(b"conectix") { head } else { tail };
    match be_u32(footer, 60) {
        Some(DIFFERENCING) => Err(Refusal::Refers("backing file")),
        Some(_) => Ok(()),
        None => Err(Refusal::Senseless(Format::Vhd)),
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
