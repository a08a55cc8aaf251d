//! hostler's node agent: inbox (fence, journal), one handler per kind, one driver per machine, hypervisors.

pub mod hypervisor;
