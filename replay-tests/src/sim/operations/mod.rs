//! What clients, operators and executors ask for: one file per command, each with the valid, the
//! invalid and the untimely.
//!
//! A new command needs a file here: [`operation_of`] does not compile without it, and a test says
//! which of [`ALL`] is missing.

mod attach_volume;
mod begin_detaching;
mod change_extra_specs;
mod change_image_metadata;
mod change_snapshot_metadata;
mod change_volume_metadata;
mod check_attempt;
mod clean_object;
mod clear_quota_limits;
mod complete_attachment;
mod create_attachment;
mod create_snapshot;
mod create_volume;
mod create_volume_from_image;
mod create_volume_type;
mod delete_attachment;
mod delete_snapshot;
mod delete_volume;
mod delete_volume_type;
mod detach_all;
mod detach_volume;
mod disable_backend;
mod enable_backend;
mod extend_volume;
mod freeze_backend;
mod grant_type_access;
mod initialize_connection;
mod manage_snapshot;
mod manage_volume;
mod recover_volume;
mod register_backend;
mod release_debt;
mod report_outcome;
mod reserve_volume;
mod reset_snapshot_status;
mod reset_volume_status;
mod restore_exports;
mod revert_volume;
mod revoke_type_access;
mod roll_detaching;
mod set_quota_defaults;
mod set_quota_limits;
mod set_volume_bootable;
mod set_volume_readonly;
mod terminate_connection;
mod thaw_backend;
mod unmanage_snapshot;
mod unmanage_volume;
mod unreserve_volume;
mod update_attachment;
mod update_snapshot;
mod update_volume;
mod update_volume_type;
mod upload_volume;

mod draw;

pub use draw::{Ask, Draw, Who};

use tephra_domain::command::Command;

/// Something that is asked.
pub struct Operation {
    /// The command's name; its file is called so.
    pub name: &'static str,
    /// How often it is drawn, relative to the others, where a run leans on nothing.
    pub weight: u32,
    /// Draws one; nothing if there is nothing that it could be about.
    pub draw: fn(&mut Draw<'_>) -> Option<Ask>,
}

/// Commands that no operation asks for yet, each with its reason.
pub const NOT_ASKED: &[(&str, &str)] = &[];

/// Every operation.
pub const ALL: &[Operation] = &[
    create_volume::OPERATION,
    create_volume_from_image::OPERATION,
    delete_volume::OPERATION,
    extend_volume::OPERATION,
    revert_volume::OPERATION,
    recover_volume::OPERATION,
    update_volume::OPERATION,
    change_volume_metadata::OPERATION,
    change_image_metadata::OPERATION,
    set_volume_bootable::OPERATION,
    set_volume_readonly::OPERATION,
    reset_volume_status::OPERATION,
    create_snapshot::OPERATION,
    delete_snapshot::OPERATION,
    update_snapshot::OPERATION,
    change_snapshot_metadata::OPERATION,
    reset_snapshot_status::OPERATION,
    create_volume_type::OPERATION,
    update_volume_type::OPERATION,
    delete_volume_type::OPERATION,
    change_extra_specs::OPERATION,
    grant_type_access::OPERATION,
    revoke_type_access::OPERATION,
    set_quota_limits::OPERATION,
    clear_quota_limits::OPERATION,
    set_quota_defaults::OPERATION,
    register_backend::OPERATION,
    enable_backend::OPERATION,
    disable_backend::OPERATION,
    check_attempt::OPERATION,
    report_outcome::OPERATION,
    release_debt::OPERATION,
    manage_volume::OPERATION,
    unmanage_volume::OPERATION,
    manage_snapshot::OPERATION,
    unmanage_snapshot::OPERATION,
    clean_object::OPERATION,
    freeze_backend::OPERATION,
    thaw_backend::OPERATION,
    create_attachment::OPERATION,
    update_attachment::OPERATION,
    upload_volume::OPERATION,
    complete_attachment::OPERATION,
    delete_attachment::OPERATION,
    reserve_volume::OPERATION,
    unreserve_volume::OPERATION,
    begin_detaching::OPERATION,
    roll_detaching::OPERATION,
    initialize_connection::OPERATION,
    terminate_connection::OPERATION,
    attach_volume::OPERATION,
    detach_volume::OPERATION,
    detach_all::OPERATION,
    restore_exports::OPERATION,
];

/// The name of the operation that asks for a command.
pub const fn operation_of(command: &Command) -> &'static str {
    match command {
        Command::CreateVolume(_) => "create_volume",
        Command::DeleteVolume { .. } => "delete_volume",
        Command::ExtendVolume { .. } => "extend_volume",
        Command::RevertVolume { .. } => "revert_volume",
        Command::RecoverVolume { .. } => "recover_volume",
        Command::UpdateVolume { .. } => "update_volume",
        Command::ChangeVolumeMetadata { .. } => "change_volume_metadata",
        Command::SetVolumeBootable { .. } => "set_volume_bootable",
        Command::SetVolumeReadonly { .. } => "set_volume_readonly",
        Command::ResetVolumeStatus { .. } => "reset_volume_status",
        Command::CreateSnapshot(_) => "create_snapshot",
        Command::DeleteSnapshot { .. } => "delete_snapshot",
        Command::UpdateSnapshot { .. } => "update_snapshot",
        Command::ChangeSnapshotMetadata { .. } => "change_snapshot_metadata",
        Command::ResetSnapshotStatus { .. } => "reset_snapshot_status",
        Command::CreateVolumeType(_) => "create_volume_type",
        Command::UpdateVolumeType { .. } => "update_volume_type",
        Command::DeleteVolumeType { .. } => "delete_volume_type",
        Command::ChangeExtraSpecs { .. } => "change_extra_specs",
        Command::GrantTypeAccess { .. } => "grant_type_access",
        Command::RevokeTypeAccess { .. } => "revoke_type_access",
        Command::SetQuotaLimits { .. } => "set_quota_limits",
        Command::ClearQuotaLimits { .. } => "clear_quota_limits",
        Command::SetQuotaDefaults { .. } => "set_quota_defaults",
        Command::RegisterBackend { .. } => "register_backend",
        Command::EnableBackend { .. } => "enable_backend",
        Command::DisableBackend { .. } => "disable_backend",
        Command::CheckAttempt { .. } => "check_attempt",
        Command::ReportOutcome { .. } => "report_outcome",
        Command::ReleaseDebt { .. } => "release_debt",
        Command::ManageVolume(_) => "manage_volume",
        Command::UnmanageVolume { .. } => "unmanage_volume",
        Command::ManageSnapshot(_) => "manage_snapshot",
        Command::UnmanageSnapshot { .. } => "unmanage_snapshot",
        Command::CleanObject(_) => "clean_object",
        Command::CreateVolumeFromImage(_) => "create_volume_from_image",
        Command::ChangeImageMetadata { .. } => "change_image_metadata",
        Command::CreateAttachment(_) => "create_attachment",
        Command::UpdateAttachment { .. } => "update_attachment",
        Command::CompleteAttachment { .. } => "complete_attachment",
        Command::DeleteAttachment { .. } => "delete_attachment",
        Command::ReserveVolume { .. } => "reserve_volume",
        Command::UnreserveVolume { .. } => "unreserve_volume",
        Command::BeginDetaching { .. } => "begin_detaching",
        Command::RollDetaching { .. } => "roll_detaching",
        Command::InitializeConnection { .. } => "initialize_connection",
        Command::TerminateConnection { .. } => "terminate_connection",
        Command::AttachVolume(_) => "attach_volume",
        Command::DetachVolume { .. } => "detach_volume",
        Command::DetachAll { .. } => "detach_all",
        Command::RestoreExports { .. } => "restore_exports",
        Command::FreezeBackend { .. } => "freeze_backend",
        Command::ThawBackend { .. } => "thaw_backend",
        Command::UploadVolume(_) => "upload_volume",
    }
}

/// Draws what is asked next. `weights`: how often each of [`ALL`], relative to the others.
pub fn next(weights: &[u32], draw: &mut Draw<'_>) -> Option<Ask> {
    let mut drawn = draw.below(weights.iter().sum());
    for (operation, weight) in ALL.iter().zip(weights) {
        match drawn.checked_sub(*weight) {
            Some(rest) => drawn = rest,
            None => return (operation.draw)(draw),
        }
    }
    None
}
