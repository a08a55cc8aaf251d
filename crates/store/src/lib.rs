//! hostler's durable facts and every step that changes them
