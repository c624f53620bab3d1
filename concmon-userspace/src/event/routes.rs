//! The routes of a web application, as its framework has them.

use serde::{Deserialize, Serialize};

use super::shared::at_most;

/// All routes of an application, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyRoutes {
    #[serde(deserialize_with = "at_most::<1_024, _, _>")]
    pub routes: Vec<PyRoute>,
    /// There are more.
    pub cut: bool,
    /// [`super::PyLoop::id`] of the loop that serves it; `None`: several applications are served.
    #[serde(default)]
    pub loop_id: Option<u64>,
}

/// What one route takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyRoute {
    /// As the program wrote it, those before it included: `/items/{id:int}`.
    pub path: String,
    /// `None`: any.
    pub methods: Option<Vec<String>>,
    pub kind: PyRouteKind,
}

/// What a route does with its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PyRouteKind {
    /// Takes it.
    Path,
    /// Takes all below it.
    Below,
    /// No route that comes later takes anything below it.
    Closed,
    /// What it takes cannot be told.
    Unknown,
}
