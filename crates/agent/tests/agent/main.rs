//! Whole agents against a scripted server behind the link seam, on a host that survives them.

mod delivery;
mod edit;
mod machine;
mod poll;
mod power;
mod restart;
mod server;
mod snapshot;
mod storm;
mod trust;
mod world;
