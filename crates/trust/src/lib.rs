//! hostler's trust: certificate authority, mTLS, signed tasks
