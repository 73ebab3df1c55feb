//! Attachments whose exports fail, whose clients change their minds, or that are too many.

use std::collections::BTreeMap;

use tephra_domain::actor::Actor;
use tephra_domain::attachment::{AttachMode, AttachmentState, MAX_ATTACHMENTS};
use tephra_domain::command::{Command, CreateVolumeType, VolumeTypeRef};
use tephra_domain::effect::{Failure, FailureKind};
use tephra_domain::ids::{AttachmentId, VolumeId, VolumeTypeId};
use tephra_domain::volume::VolumeState;
use tephra_replay_tests::world::World;

use super::attachments::{host, in_use, reservation, state};
use super::{broken, code};

#[test]
fn who_detaches_while_the_connection_is_being_terminated_is_detached() {
    let mut world = World::default();
    let (volume, attachment) = in_use(&mut world);
    let terminate = Command::TerminateConnection { volume, connector: None };
    world.when(terminate.clone()).unwrap();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Disconnecting);
    assert_eq!(world.when(terminate.clone()), Ok(vec![]), "it is under way");
    let detach = Command::DetachVolume { volume, attachment: None, force: false };
    let overtaking = ["OperationClosed", "AttachmentDisconnectAccepted", "OperationOpened"];
    assert_eq!(world.when(detach.clone()), Ok(overtaking.to_vec()));
    assert_eq!(world.when(detach), Ok(vec![]), "it is under way");
    assert_eq!(world.when(terminate), Ok(vec![]), "nothing of it stays");
    world.settle();
    assert_eq!(state(&world, volume, attachment), AttachmentState::Absent);
    assert_eq!(world.volume_state(volume), VolumeState::Available);
    assert!(world.storage.exports.is_empty());
    world.check_at_rest();
}
