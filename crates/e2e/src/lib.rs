//! whole systems under test
