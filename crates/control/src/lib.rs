//! hostler's server: API, app, loops, dispatch
