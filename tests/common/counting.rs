//! An allocator that counts, so that a reader which takes far more memory than its file is found.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with the bytes in use and the most there ever were.
pub struct Counting {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Counting {
    pub const fn new() -> Counting {
        Counting { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// What `work` gives, and the most bytes that were in use meanwhile beyond those in use before. All threads count.
    pub fn peak_of<T>(&self, work: impl FnOnce() -> T) -> (T, usize) {
        let before = self.now.load(Ordering::Relaxed);
        self.peak.store(before, Ordering::Relaxed);
        let value = work();
        (value, self.peak.load(Ordering::Relaxed).saturating_sub(before))
    }

    fn grew(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }
}

#[allow(unsafe_code, reason = "only the program's allocator sees every allocation")]
// SAFETY: every call goes on to the system's allocator unchanged; the counts are looked at by nobody who allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.grew(layout.size());
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.grew(layout.size());
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both are there while the bytes are moved.
        self.grew(size);
        // SAFETY: the caller's promise, handed on.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        self.now.fetch_sub(layout.size(), Ordering::Relaxed);
        moved
    }
}
