//! one SQLite file: a writer thread with group commit, and readers
