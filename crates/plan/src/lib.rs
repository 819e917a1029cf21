//! A model as a recorded program over rows: operations, shapes, memory plan, digest.
