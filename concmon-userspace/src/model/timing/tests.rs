//! Loops, simulated.
