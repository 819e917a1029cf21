//! Arithmetic on slices: the thread pool, instruction-set choice, matrix products, attention, norms, scans.
