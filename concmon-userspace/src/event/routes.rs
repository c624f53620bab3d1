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
    /// A request with a method that no route takes is of the first one that takes its path.
    pub other_methods: bool,
    /// [`super::PyLoop::id`] of the loop that serves it; `None`: whoever does, or several applications are served.
    pub loop_id: Option<u64>,
    /// Why none is told of any request.
    pub refused: Option<PyNoRoutes>,
}

/// Why no routes are told of an application that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PyNoRoutes {
    /// The process serves several.
    Several,
    /// It is served below a path of its server's or its own.
    Prefix,
    /// What it hands requests through may change their paths.
    Middleware,
}

/// What one route takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyRoute {
    /// As the framework names it, those before it included: `/items/{id:int}`.
    pub path: String,
    /// A regular expression for all of a path that it takes; `None`: which ones cannot be told.
    pub pattern: Option<String>,
    /// `None`: any.
    pub methods: Option<Vec<String>>,
    pub kind: PyRouteKind,
}

/// What a route does with a path that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PyRouteKind {
    /// Answers it.
    Path,
    /// Answers it, without a route, and no route that comes later takes it.
    Closed,
    /// That cannot be told.
    Unknown,
}
