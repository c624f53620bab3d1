//! What views and findings see of a watch: the rows of the JSON contract, as the model fills them in.

use crate::event::PythonInfo;

pub use crate::schema::*;

impl Python {
    pub(crate) fn of(info: &PythonInfo) -> Self {
        Python {
            implementation: info.implementation.clone(),
            version: info.version.clone(),
            free_threaded: info.free_threaded,
            supported: info.supported,
            reason: info.reason.clone(),
        }
    }
}
