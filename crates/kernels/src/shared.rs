//! A mutable slice whose disjoint parts several threads write.

use std::marker::PhantomData;
use std::ops::Range;

/// A `&mut [T]` that tasks of one parallel region may cut pieces from.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `part`, whose callers promise that concurrent parts do not overlap.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared { start: slice.as_mut_ptr(), len: slice.len(), owner: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two parts that overlap may be alive at the same time.
    #[expect(clippy::mut_from_ref, reason = "handing out disjoint parts is the purpose")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {} elements", self.len);
        // SAFETY: in bounds by the assertion, unaliased by the caller's promise; `owner` keeps the slice borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
