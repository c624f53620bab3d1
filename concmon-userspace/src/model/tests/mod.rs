//! The model as a whole: what views see of known and of random events.

mod groups;
mod hostile;
mod life;
mod loops;
mod python;
mod random;
mod retention;
mod still;
mod windows;
