//! hostler's typed HTTP client
