//! What is refused, what is replaced, and that nothing is written around these files.
