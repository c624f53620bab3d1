//! Every view on handmade snapshots.

mod fixture;
mod json;
mod look;
mod screen;
mod text;
