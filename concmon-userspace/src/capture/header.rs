//! The header of a capture: how it was made.

use serde::{Deserialize, Serialize};

use super::format::CaptureError;
use crate::model::WatchInfo;

/// What the watch was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filters {
    pub follow_children: bool,
    /// Samples per second and CPU.
    pub rate: u32,
    /// Command lines, context values and file paths outside the Python library were left out.
    pub redacted: bool,
}

/// How a capture was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    pub info: WatchInfo,
    /// Version of the records.
    pub wire: u16,
    /// `x86_64`, `aarch64`.
    pub architecture: String,
    pub host: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Command line of the recorder.
    pub command: Vec<String>,
    pub filters: Filters,
    /// It does not begin with the watch, but with the facts of some tick.
    #[serde(default)]
    pub joins: bool,
    /// Why it was written: what triggered it; `None`: it was asked for from the start.
    #[serde(default)]
    pub reason: Option<String>,
    /// The service whose flight recorder has written it out; `None`: it is no such file.
    #[serde(default)]
    pub flight: Option<String>,
}

impl Header {
    pub(super) fn bytes(&self) -> Vec<u8> {
        // Plain structs of strings and numbers: nothing that MessagePack does not have.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// Reads a header, when this program can replay what follows.
    pub(super) fn parse(body: &[u8]) -> Result<Self, CaptureError> {
        let header: Self = rmp_serde::from_slice(body).map_err(|_| CaptureError::Header)?;
        if header.wire > concmon_ebpf::WIRE_VERSION {
            return Err(CaptureError::NewerWire(header.wire));
        }
        Ok(header)
    }

    /// System calls have other numbers elsewhere.
    pub(super) fn check_architecture(self) -> Result<Self, CaptureError> {
        if self.architecture == std::env::consts::ARCH {
            return Ok(self);
        }
        let here = std::env::consts::ARCH;
        Err(CaptureError::Architecture(self.architecture, here))
    }
}
