//! Every view on handmade snapshots.

mod fixture;
mod json;
mod screen;
mod text;
