//! Which acceleration: KVM where it serves, else emulation, and the sentence that says why.

use crate::host::Kvm;

/// What the configuration asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accel {
    /// KVM where the processor reports vmx or svm and `/dev/kvm` opens; else TCG.
    #[default]
    Auto,
    /// KVM, whatever the host looks like.
    Kvm,
    /// Software emulation, also where KVM would serve.
    Tcg,
}

/// What is used, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Acceleration {
    pub(super) kvm: bool,
    pub(super) reason: String,
}

impl Acceleration {
    pub(super) fn decide(wanted: Accel, host: &Kvm) -> Acceleration {
        let (kvm, reason) = match wanted {
            Accel::Auto if host.usable => (true, format!("KVM: {}", host.detail)),
            Accel::Auto => (false, format!("software emulation: {}", host.detail)),
            Accel::Kvm => (true, format!("KVM, because the configuration says so; {}", host.detail)),
            Accel::Tcg => (false, format!("software emulation, because the configuration says so; {}", host.detail)),
        };
        Acceleration { kvm, reason }
    }

    pub(super) fn name(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg" }
    }

    /// QEMU's arguments for it. Multi-threaded TCG gives every virtual processor a thread.
    pub(super) fn arguments(&self) -> &'static [&'static str] {
        if self.kvm { &["-accel", "kvm", "-cpu", "host"] } else { &["-accel", "tcg,thread=multi"] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(usable: bool) -> Kvm {
        Kvm { cpu_virtualization: usable, device: true, usable, detail: "so it is".into() }
    }

    #[test]
    fn kvm_is_chosen_only_where_it_serves_and_the_configuration_overrides() {
        assert!(Acceleration::decide(Accel::Auto, &host(true)).kvm);
        assert!(!Acceleration::decide(Accel::Auto, &host(false)).kvm);
        assert!(Acceleration::decide(Accel::Kvm, &host(false)).kvm);
        assert!(!Acceleration::decide(Accel::Tcg, &host(true)).kvm);
        assert_eq!(Acceleration::decide(Accel::Auto, &host(false)).reason, "software emulation: so it is");
    }
}
