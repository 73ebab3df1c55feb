//! Who asks, and what they may do.

use crate::ids::{ProjectId, UserId};
use crate::rejection::Rejection;

/// The three roles of a default Cinder policy, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May look at the project's resources.
    Reader,
    /// May change the project's resources.
    Member,
    /// May do everything, in every project.
    Admin,
}

/// The author of a command, kept with every commit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    /// The user.
    pub user: UserId,
    /// The project that the user acts for.
    pub project: ProjectId,
    /// The strongest role that the user has there.
    pub role: Role,
    /// Where the request came from, if it came over a network.
    pub address: Option<Box<str>>,
}

impl Actor {
    /// The system itself: executors reporting, and the first commit of a new ledger.
    pub fn system() -> Self {
        Self {
            user: UserId::new("tephra"),
            project: ProjectId::new("tephra"),
            role: Role::Admin,
            address: None,
        }
    }

    /// Whether this actor may know that a resource of `project` exists.
    pub fn can_see(&self, project: &ProjectId) -> bool {
        self.role == Role::Admin || self.project == *project
    }

    /// Refuses readers: `action` is Cinder's policy name, part of its message.
    pub fn require_member(&self, action: &'static str) -> Result<(), Rejection> {
        match self.role {
            Role::Reader => Err(Rejection::PolicyNotAuthorized { action }),
            Role::Member | Role::Admin => Ok(()),
        }
    }

    /// Refuses everybody but administrators.
    pub fn require_admin(&self, action: &'static str) -> Result<(), Rejection> {
        match self.role {
            Role::Reader | Role::Member => Err(Rejection::PolicyNotAuthorized { action }),
            Role::Admin => Ok(()),
        }
    }
}

impl Actor {
    /// Whether this actor may know that a volume type exists.
    pub fn can_see_type(&self, volume_type: &crate::volume_type::VolumeType) -> bool {
        self.role == Role::Admin || volume_type.is_usable_by(&self.project)
    }
}
