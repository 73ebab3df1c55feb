//! The number of every kind of event, for ever.
//!
//! Numbers go up within the hundred of their aggregate. A gap is a retired number: it is never
//! given to another event, because old blocks still hold it.

use std::fmt;

macro_rules! kinds {
    ($($number:literal $name:ident;)*) => {
        /// A kind of event, as it is numbered on disk. Names are those of
        /// [`tephra_domain::event::Event::name`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        #[allow(missing_docs, reason = "named after the events")]
        pub enum Kind {
            $($name = $number,)*
        }

        impl Kind {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on disk.
            pub const fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)*
                }
            }

            /// The kind of that number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The event's public name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    // volumes
    101 VolumeCreateAccepted;
    102 VolumeRescheduled;
    103 VolumeCreated;
    104 VolumeCreateFailed;
    105 VolumeDeleteAccepted;
    106 VolumeDeleted;
    107 VolumeDeleteFailed;
    108 VolumeExtendAccepted;
    109 VolumeExtended;
    110 VolumeExtendFailed;
    111 VolumeRevertAccepted;
    112 VolumeReverted;
    113 VolumeRevertFailed;
    114 VolumeResetAccepted;
    115 VolumeStatusReset;
    116 VolumeResetFailed;
    117 VolumeDetailsUpdated;
    118 VolumeMetadataReplaced;
    119 VolumeBootableChanged;
    120 VolumeReadonlyChanged;
    121 VolumeUseChanged;
    141 VolumeImageMetadataReplaced;
    142 VolumeUploadAccepted;
    143 VolumeUploaded;
    144 VolumeUploadFailed;
    151 VolumeManageAccepted;
    152 VolumeManaged;
    153 VolumeManageFailed;
    154 VolumeUnmanageAccepted;
    155 VolumeUnmanaged;
    156 VolumeUnmanageFailed;
    // snapshots
    201 SnapshotCreateAccepted;
    202 SnapshotCreated;
    203 SnapshotCreateFailed;
    204 SnapshotDeleteAccepted;
    205 SnapshotDeleted;
    206 SnapshotDeleteFailed;
    207 SnapshotRestoreAccepted;
    208 SnapshotRestoreEnded;
    209 SnapshotResetAccepted;
    210 SnapshotStatusReset;
    211 SnapshotResetFailed;
    212 SnapshotDetailsUpdated;
    213 SnapshotMetadataReplaced;
    221 SnapshotManageAccepted;
    222 SnapshotManaged;
    223 SnapshotManageFailed;
    224 SnapshotUnmanageAccepted;
    225 SnapshotUnmanaged;
    226 SnapshotUnmanageFailed;
    // volume types
    301 VolumeTypeCreated;
    302 VolumeTypeUpdated;
    303 VolumeTypeExtraSpecsReplaced;
    304 VolumeTypeAccessGranted;
    305 VolumeTypeAccessRevoked;
    306 VolumeTypeDeleted;
    // quotas
    401 QuotaLimitsSet;
    402 QuotaLimitsCleared;
    403 QuotaDefaultsSet;
    // backends
    501 BackendRegistered;
    502 BackendEnabled;
    503 BackendDisabled;
    // operations
    601 OperationOpened;
    602 StepCompleted;
    603 StepAttemptFailed;
    604 StepWaived;
    605 UndoStarted;
    606 StepUndone;
    607 UndoWaived;
    608 OperationRescheduled;
    609 OperationClosed;
    // cleanup debts
    701 CleanupDebtIncurred;
    702 CleanupAttemptFailed;
    703 CleanupDebtReleased;
    704 CleanupDebtPaid;
    // attachments
    801 AttachmentReserved;
    802 AttachmentConnectAccepted;
    803 AttachmentConnected;
    804 AttachmentConnectFailed;
    805 AttachmentAttached;
    806 AttachmentCompleted;
    807 AttachmentDisconnectAccepted;
    808 AttachmentDisconnected;
    809 AttachmentDisconnectFailed;
    810 AttachmentDeleted;
    // backends, continued
    951 BackendFrozen;
    952 BackendThawed;
    // the ledger
    1001 TurnBegan;
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn numbers_go_up_and_lead_back_to_their_kind() {
        assert!(Kind::ALL.is_sorted_by(|a, b| a.number() < b.number()));
        for kind in Kind::ALL {
            assert_eq!(Kind::from_number(kind.number()), Some(*kind));
        }
        assert_eq!(Kind::from_number(0), None);
    }
}
