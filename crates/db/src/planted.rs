//! Whether commits wait for the disk: they do, but in a simulation that is to find that they do not. Only in builds with
//! the feature `planted-bugs`.

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static SYNCS: Cell<bool> = const { Cell::new(true) };
    }

    /// Databases that this thread opens from now on wait for the disk, or do not.
    pub fn sync(on: bool) {
        SYNCS.set(on);
    }

    /// Whether databases that this thread opens wait for the disk.
    pub fn syncs() -> bool {
        SYNCS.get()
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{sync, syncs};

/// Always.
#[cfg(not(feature = "planted-bugs"))]
pub const fn syncs() -> bool {
    true
}
