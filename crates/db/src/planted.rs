//! Disks as a simulation has them: those that do not wait for what is written, which it is to find out, and those that are
//! full for a while. Only in builds with the feature `planted-bugs`; in all others every commit waits, and the disk alone says
//! that it is full.

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeSet,
        path::{Path, PathBuf},
    };

    thread_local! {
        static SYNCS: Cell<bool> = const { Cell::new(true) };
        static FULL: RefCell<BTreeSet<PathBuf>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Databases that this thread opens from now on wait for the disk, or do not.
    pub fn sync(on: bool) {
        SYNCS.set(on);
    }

    /// Whether databases that this thread opens wait for the disk.
    pub fn syncs() -> bool {
        SYNCS.get()
    }

    /// From now on nothing that this thread commits to this file finds room.
    pub fn fill(file: &Path) {
        FULL.with_borrow_mut(|full| full.insert(file.to_owned()));
    }

    /// There is room again.
    pub fn clear(file: &Path) {
        FULL.with_borrow_mut(|full| full.remove(file));
    }

    /// Whether it finds none.
    pub fn is_full(file: &Path) -> bool {
        FULL.with_borrow(|full| full.contains(file))
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{clear, fill, is_full, sync, syncs};

/// Always.
#[cfg(not(feature = "planted-bugs"))]
pub const fn syncs() -> bool {
    true
}

/// Never: then SQLite says so.
#[cfg(not(feature = "planted-bugs"))]
pub const fn is_full(_: &std::path::Path) -> bool {
    false
}
