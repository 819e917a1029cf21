//! Executing a plan on the CPU.
