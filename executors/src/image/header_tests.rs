#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use super::{Format, HEAD_BYTES, Refusal, TAIL_BYTES, detect, vet};

/// A file that the real `qemu-img` makes.
fn made(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("qemu-img").arg("create").args(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(folder.join("i")).unwrap()
}

fn ends(file: &[u8]) -> (&[u8], &[u8]) {
    (&file[..file.len().min(HEAD_BYTES)], &file[file.len().saturating_sub(TAIL_BYTES)..])
}

fn vetted(declared: Format, file: &[u8]) -> Result<(), Refusal> {
    let (head, tail) = ends(file);
    vet(declared, head, tail)
}

#[test]
fn what_qemu_img_makes_is_what_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    for (format, arguments) in [
        (Format::Raw, &["-f", "raw", "i", "1M"][..]),
        (Format::Qcow2, &["-f", "qcow2", "i", "1M"]),
        (Format::Qcow2, &["-f", "qcow2", "-o", "compat=0.10", "i", "1M"]),
        (Format::Vmdk, &["-f", "vmdk", "i", "1M"]),
        (Format::Vmdk, &["-f", "vmdk", "-o", "subformat=streamOptimized", "i", "1M"]),
        (Format::Vdi, &["-f", "vdi", "i", "1M"]),
        (Format::Vhd, &["-f", "vpc", "i", "1M"]),
        (Format::Vhd, &["-f", "vpc", "-o", "subformat=fixed", "i", "1M"]),
        (Format::Vhdx, &["-f", "vhdx", "i", "1M"]),
    ] {
        let file = made(folder.path(), arguments);
        assert_eq!(vetted(format, &file), Ok(()), "{arguments:?}");
        let other = if format == Format::Raw { Format::Qcow2 } else { Format::Raw };
        let refusal = Refusal::OtherFormat { declared: other, found: format };
        assert_eq!(vetted(other, &file), Err(refusal), "{arguments:?}");
    }
}

#[test]
fn what_needs_another_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("b"), vec![0; 1 << 20]).unwrap();
    for (format, arguments) in [
        (Format::Qcow2, &["-f", "qcow2", "-b", "b", "-F", "raw", "i", "1M"][..]),
        (Format::Qcow2, &["-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "i", "1M"]),
        (Format::Vmdk, &["-f", "vmdk", "-o", "subformat=monolithicFlat", "i", "1M"]),
        (Format::Vmdk, &["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "i", "1M"]),
    ] {
        let refusal = vetted(format, &made(folder.path(), arguments)).unwrap_err();
        assert!(matches!(refusal, Refusal::Refers(_)), "{arguments:?}: {refusal}");
    }
}

#[test]
fn a_vmdk_that_names_a_second_extent_or_a_parent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = made(folder.path(), &["-f", "vmdk", "i", "1M"]);
    let text = String::from_utf8_lossy(&file[512..1536]).into_owned();
    let with = |line: &str| {
        let mut bent = file.clone();
        let end = 512 + text.find('\0').unwrap();
        bent[end..end + line.len()].copy_from_slice(line.as_bytes());
        vetted(Format::Vmdk, &bent)
    };
    assert_eq!(with("\nRW 2048 FLAT \"/etc/passwd\" 0\n"), Err(Refusal::Refers("separate extent")));
    assert_eq!(with("\nparentFileNameHint=\"/etc/passwd\"\n"), Err(Refusal::Refers("backing file")));
}

/// qemu takes the first `createType` that it finds, in a comment too, and follows the extents of a
/// descriptor whose header gives no capacity.
#[test]
fn a_vmdk_that_can_be_read_in_two_ways_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = made(folder.path(), &["-f", "vmdk", "i", "1M"]);
    let mut without_capacity = file.clone();
    without_capacity[12..20].fill(0);
    assert_eq!(vetted(Format::Vmdk, &without_capacity), Err(Refusal::Refers("separate extent")));
    let with_descriptor = |text: &str| {
        let mut bent = file.clone();
        bent[512..1536].fill(0);
        bent[512..512 + text.len()].copy_from_slice(text.as_bytes());
        vetted(Format::Vmdk, &bent)
    };
    let sparse = "# Disk DescriptorFile\ncreateType=\"monolithicSparse\"\nRW 2048 SPARSE \"i\"\n";
    assert_eq!(with_descriptor(sparse), Ok(()));
    let twice = format!("# createType=\"monolithicFlat\"\n{sparse}");
    assert_eq!(with_descriptor(&twice), Err(Refusal::Senseless(Format::Vmdk)));
    let flat = sparse.replace("SPARSE \"i\"", "FLAT \"/etc/passwd\" 0");
    assert_eq!(with_descriptor(&flat), Err(Refusal::Refers("separate extent")));
    assert_eq!(
        with_descriptor(&sparse.replace("RW 2048 SPARSE \"i\"", "")),
        Err(Refusal::Refers("separate extent"))
    );
}

#[test]
fn no_beginning_panics() {
    let folder = tempfile::tempdir().unwrap();
    for (format, name) in [(Format::Qcow2, "qcow2"), (Format::Vmdk, "vmdk"), (Format::Vhd, "vpc")] {
        let file = made(folder.path(), &["-f", name, "i", "1M"]);
        let head = &file[..file.len().min(1600)];
        for end in 0..head.len() {
            drop(vet(format, &head[..end], &head[..end.min(TAIL_BYTES)]));
        }
        for at in 0..head.len() {
            for byte in [0, 1, 0x7F, 0xFF] {
                let mut bent = head.to_vec();
                bent[at] = byte;
                drop(vet(format, &bent, &[]));
            }
        }
    }
    assert_eq!(detect(&[], &[]), Format::Raw);
}
