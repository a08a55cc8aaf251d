//! How an import stands, for people.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    id::{ImageDigest, ImportId, PrincipalId, TenantId},
    task::TaskError,
};

/// How an import stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportState {
    /// Under way.
    Running,
    /// The image is there.
    Succeeded,
    /// It is not; `error` says why.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl ImportState {
    /// As the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ImportState::Running => "running",
            ImportState::Succeeded => "succeeded",
            ImportState::Failed => "failed",
            ImportState::Cancelled => "cancelled",
        }
    }

    /// Whether it is over.
    pub const fn is_terminal(self) -> bool {
        match self {
            ImportState::Running => false,
            ImportState::Succeeded | ImportState::Failed | ImportState::Cancelled => true,
        }
    }
}

/// What an import is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportPhase {
    /// For those before it.
    Waiting,
    /// Bytes are coming.
    Fetching,
    /// Headers are read, packed bytes unpacked.
    Checking,
    /// qemu-img makes a qcow2 of it.
    Converting,
    /// The image is written down.
    Storing,
}

impl ImportPhase {
    /// As the store and JSON spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            ImportPhase::Waiting => "waiting",
            ImportPhase::Fetching => "fetching",
            ImportPhase::Checking => "checking",
            ImportPhase::Converting => "converting",
            ImportPhase::Storing => "storing",
        }
    }
}

/// How far an import is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImportProgress {
    /// What it is doing.
    pub phase: ImportPhase,
    /// How much of the phase is done, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Bytes that have come in all.
    pub bytes: u64,
}

/// An import as people see it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Import {
    /// Which.
    pub id: ImportId,
    /// Whose image it will be.
    pub tenant: TenantId,
    /// The image's name.
    pub name: String,
    /// Where its bytes come from.
    pub source: String,
    /// How it stands.
    pub state: ImportState,
    /// How far it is, or was.
    pub progress: ImportProgress,
    /// The image, once it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageDigest>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// Who asked.
    pub created_by: PrincipalId,
    /// When.
    pub created_at: Timestamp,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// What a call that begins an import answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Importing {
    /// The import.
    pub import: Import,
}
