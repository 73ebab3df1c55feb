//! Makes a volume: blank, from a snapshot or from a volume; of any type, in any zone; too large, too small,
//! under an id that is taken.

use std::collections::BTreeMap;

use tephra_domain::command::{Command, CreateVolume, VolumeTypeRef};
use tephra_domain::ids::ZoneName;
use tephra_domain::units::SizeGib;
use tephra_domain::volume::VolumeSource;

use super::{Ask, Draw, Operation};

/// The operation.
pub const OPERATION: Operation = Operation { name: "create_volume", weight: 30, draw };

fn draw(draw: &mut Draw<'_>) -> Option<Ask> {
    let (source, owner) = match draw.below(10) {
        0 | 1 => draw.snapshot().map(|(id, project)| (VolumeSource::Snapshot(id), project))?,
        2 | 3 => draw.volume().map(|(id, project)| (VolumeSource::Volume(id), project))?,
        // the api looks images up first; whoever does not is told so
        4 if draw.below(8) == 0 => (VolumeSource::Image(draw.image().id), draw.project()),
        _ => (VolumeSource::Blank, draw.project()),
    };
    let create = parameters(draw, source)?;
    Some(draw.owner(&owner).asks(Command::CreateVolume(Box::new(create))))
}

/// What is asked for beside the source.
pub fn parameters(draw: &mut Draw<'_>, source: VolumeSource) -> Option<CreateVolume> {
    let has_size = matches!(source, VolumeSource::Volume(_) | VolumeSource::Snapshot(_));
    let size_gib = match draw.below(30) {
        0 => None,
        1 => Some(500),
        2 => Some(SizeGib::MAX),
        _ if has_size && draw.below(2) == 0 => None,
        _ => Some(1 + draw.below(6)),
    };
    let volume_type = match draw.below(6) {
        0 => draw.volume_type().map(VolumeTypeRef::Id),
        1 if draw.below(6) == 0 => Some(VolumeTypeRef::Named("no such type".into())),
        1 => draw.volume_type_name().map(VolumeTypeRef::Named),
        _ => None,
    };
    let availability_zone = match draw.below(20) {
        0 => Some(ZoneName::new("nowhere")),
        1 | 2 => Some(ZoneName::new("nova")),
        _ => None,
    };
    let taken = draw.below(40) == 0;
    Some(CreateVolume {
        volume: if taken { draw.volume()?.0 } else { draw.fresh().into() },
        name: draw.name(),
        description: None,
        size: size_gib.and_then(SizeGib::new),
        source,
        volume_type,
        availability_zone,
        metadata: BTreeMap::new(),
    })
}
