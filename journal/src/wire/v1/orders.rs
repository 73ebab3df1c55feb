//! Work orders, on their way to executors, and what executors answer.

use tephra_domain::effect::{Direction, DueEffect, Effect, EffectKey, Outcome};

use super::codec::{Id, wire_code, wire_enum, wire_struct};
use super::values::{BackendObjectV1, DebtIdV1, ExportV1, FailureV1, NewImageV1, PoolIdV1};
use crate::work_queue::WorkOrder;

wire_code! {
    /// Doing or undoing.
    DirectionV1 for Direction { 0 Forward, 1 Undo }
}

wire_struct! {
    /// An effect to be performed.
    WorkOrderV1<'a> for WorkOrder { due: DueEffectV1<'a>, operation: Id, request: &'a str }
    /// What, where, which attempt, and not before when.
    DueEffectV1<'a> for DueEffect {
        key: EffectKeyV1, pool: PoolIdV1<'a>, effect: EffectV1<'a>, not_before: i64,
    }
}

wire_enum! {
    /// Names one attempt.
    EffectKeyV1 for EffectKey {
        0 Step { operation: Id, direction: DirectionV1, step: u16, attempt: u32 }
            = { EffectKey::Step { operation, direction, step, attempt } };
        1 Debt { debt: DebtIdV1, attempt: u32 } = { EffectKey::Debt { debt, attempt } };
    }
    /// How an attempt turned out.
    OutcomeV1<'a> for Outcome {
        0 Done {} = { Outcome::Done };
        1 Failed { failure: FailureV1<'a> } = { Outcome::Failed(failure) };
    }
    /// What is to be brought about.
    EffectV1<'a> for Effect {
        0 CreateVolume { volume: BackendObjectV1, size: u32 } = { Effect::CreateVolume { volume, size } };
        1 CreateVolumeFromSnapshot { volume: BackendObjectV1, size: u32, snapshot: BackendObjectV1 }
            = { Effect::CreateVolumeFromSnapshot { volume, size, snapshot } };
        2 CloneVolume { volume: BackendObjectV1, size: u32, source: BackendObjectV1 }
            = { Effect::CloneVolume { volume, size, source } };
        3 DeleteVolume { volume: BackendObjectV1 } = { Effect::DeleteVolume { volume } };
        4 ExtendVolume { volume: BackendObjectV1, to: u32 } = { Effect::ExtendVolume { volume, to } };
        5 ShrinkVolume { volume: BackendObjectV1, to: u32 } = { Effect::ShrinkVolume { volume, to } };
        6 CreateSnapshot { snapshot: BackendObjectV1 } = { Effect::CreateSnapshot { snapshot } };
        7 DeleteSnapshot { snapshot: BackendObjectV1 } = { Effect::DeleteSnapshot { snapshot } };
        8 RevertToSnapshot { volume: BackendObjectV1, snapshot: BackendObjectV1 }
            = { Effect::RevertToSnapshot { volume, snapshot } };
        9 OverwriteVolume { volume: BackendObjectV1, source: BackendObjectV1 }
            = { Effect::OverwriteVolume { volume, source } };
        10 Verify { object: BackendObjectV1, size: u32 } = { Effect::Verify { object, size } };
        11 Adopt { object: BackendObjectV1, from: &'a str, size: Option<u32> }
            = { Effect::Adopt { object, from, size } };
        12 Disown { object: BackendObjectV1, to: &'a str } = { Effect::Disown { object, to } };
        13 CreateVolumeFromImage { volume: BackendObjectV1, size: u32, image: Id }
            = { Effect::CreateVolumeFromImage { volume, size, image } };
        14 ExportVolume { volume: BackendObjectV1, export: ExportV1<'a> }
            = { Effect::ExportVolume { volume, export } };
        15 UnexportVolume { volume: BackendObjectV1, attachment: Id }
            = { Effect::UnexportVolume { volume, attachment } };
        16 UploadImage { volume: BackendObjectV1, image: NewImageV1<'a> }
            = { Effect::UploadImage { volume, image } };
        17 RemoveImage { volume: BackendObjectV1, image: Id } = { Effect::RemoveImage { volume, image } };
        18 CopyVolume { volume: BackendObjectV1, size: u32, from: PoolIdV1<'a>, source: BackendObjectV1 }
            = { Effect::CopyVolume { volume, size, from, source } };
    }
}
