//! Every view on handmade snapshots.

mod diff;
mod fixture;
mod json;
mod look;
mod screen;
mod services;
mod text;
