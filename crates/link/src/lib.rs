//! one tower service between a caller and the server: over TCP, TLS or in process
