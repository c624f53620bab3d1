//! Rules on snapshots that are made up.
