//! What a guest is to become at its first boot: the typed form of user-data, checked here and rendered to a
//! `#cloud-config`, and what is kept of it in a machine's spec.
//!
//! Rendering goes through a JSON library, and JSON is YAML: no text of a user is ever pasted into a document. Never here:
//! the seed's volume, which the node makes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    error::{Refusal, excerpt},
    secret::Sensitive,
};

/// The most user-data or vendor-data, in bytes: 16 times what the large clouds take, and little beside a request's limit.
pub const USER_DATA_LIMIT: usize = 256 * 1024;

/// The most network configuration, in bytes of JSON.
const NETWORK_LIMIT: usize = 64 * 1024;

/// The longest host name in all (RFC 1035), and the longest of its labels.
const HOSTNAME_LIMIT: usize = 253;
const LABEL_LIMIT: usize = 63;

/// The longest user name that useradd takes.
const USER_LIMIT: usize = 32;

/// The longest public key: an RSA key of 16,384 bits has 2,800 characters, a certificate some more.
const KEY_LIMIT: usize = 8 * 1024;

/// How many keys, packages and commands there may be, each.
const LIST_LIMIT: usize = 256;

/// The kinds of key that an sshd of our days takes in `authorized_keys`.
const KEY_KINDS: [&str; 8] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
];

/// What a guest is to become. Everything may be left out.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct CloudInit {
    /// Its host name; the machine's name where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// A user to be made, who may use sudo and log in with the keys; the image's own default user where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Public keys that may log in, as in `authorized_keys`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh_authorized_keys: Vec<String>,
    /// Packages to be installed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// Commands to be run once, in order, at the end of the first boot: each a line for the guest's shell, or a program
    /// with its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runcmd: Vec<Run>,
    /// Whether people can log in on the serial console, ttyS0. `enableSerial` is read as well.
    #[serde(alias = "enableSerial", skip_serializing_if = "is_false")]
    pub enable_serial: bool,
    /// cloud-init's network configuration, version 2, without `network` around it; DHCP where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub network: Option<Value>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A command for the guest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Run {
    /// A line for its shell.
    Line(String),
    /// A program and its arguments; no shell reads them.
    Program(Vec<String>),
}

/// What a machine's guest finds at its first boot.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FirstBoot {
    /// Its host name; the machine's name where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its user-data: how long it is, and its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub user_data: Option<Sensitive>,
    /// Its vendor-data, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub vendor_data: Option<Sensitive>,
    /// Its network configuration, version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub network: Option<Value>,
}

impl CloudInit {
    /// Whether it says anything that belongs into user-data; the host name and the network have places of their own.
    pub fn has_user_data(&self) -> bool {
        self.user.is_some()
            || !self.ssh_authorized_keys.is_empty()
            || !self.packages.is_empty()
            || !self.runcmd.is_empty()
            || self.enable_serial
    }

    /// What is left of it once the rest is in user-data.
    pub fn without_user_data(self) -> CloudInit {
        CloudInit { hostname: self.hostname, network: self.network, ..CloudInit::default() }
    }

    /// Refuses what a guest could not make sense of.
    ///
    /// # Errors
    /// With the field, and why. Keys and commands are not quoted: people paste the wrong thing.
    pub fn check(&self) -> Result<(), Refusal> {
        if let Some(hostname) = &self.hostname {
            check_hostname(hostname)?;
        }
        if let Some(user) = &self.user {
            check_user(user)?;
        }
        each("ssh_authorized_keys", &self.ssh_authorized_keys, |key| check_key(key))?;
        each("packages", &self.packages, |package| check_package(package))?;
        each("runcmd", &self.runcmd, check_run)?;
        self.network.as_ref().map_or(Ok(()), check_network)
    }

    /// As user-data: a `#cloud-config`. It must have been checked.
    pub fn user_data(&self) -> String {
        let mut config = Map::new();
        match &self.user {
            Some(name) => {
                let user = json!({
                    "name": name,
                    "shell": "/bin/bash",
                    "lock_passwd": true,
                    "sudo": "ALL=(ALL) NOPASSWD:ALL",
                    "ssh_authorized_keys": self.ssh_authorized_keys,
                });
                config.insert("users".to_owned(), json!([user]));
            }
            None if !self.ssh_authorized_keys.is_empty() => {
                config.insert("ssh_authorized_keys".to_owned(), json!(self.ssh_authorized_keys));
            }
            None => {}
        }
        if !self.packages.is_empty() {
            config.insert("package_update".to_owned(), json!(true));
            config.insert("packages".to_owned(), json!(self.packages));
        }
        let serial = self.enable_serial.then(|| json!(["systemctl", "enable", "--now", "serial-getty@ttyS0.service"]));
        let commands: Vec<Value> = serial.into_iter().chain(self.runcmd.iter().map(|run| json!(run))).collect();
        if !commands.is_empty() {
            config.insert("runcmd".to_owned(), Value::Array(commands));
        }
        format!("#cloud-config\n{:#}\n", Value::Object(config))
    }
}

/// Checks each of a list; the refusal names the place.
fn each<T>(field: &str, items: &[T], check: impl Fn(&T) -> Result<(), String>) -> Result<(), Refusal> {
    if items.len() > LIST_LIMIT {
        return Err(refused(field, format!("{} are more than {LIST_LIMIT}", items.len())));
    }
    for (at, item) in items.iter().enumerate() {
        check(item).map_err(|why| refused(&format!("{field}[{at}]"), why))?;
    }
    Ok(())
}

fn refused(field: &str, why: impl Into<String>) -> Refusal {
    Refusal::field(&format!("cloud_init.{field}"), why.into())
}

fn check_hostname(hostname: &str) -> Result<(), Refusal> {
    let label = |label: &str| {
        (1..=LABEL_LIMIT).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if hostname.len() <= HOSTNAME_LIMIT && hostname.split('.').all(label) {
        return Ok(());
    }
    let why = "a host name is labels of 1 to 63 of A-Z, a-z, 0-9 and '-', with no hyphen at either end, joined by dots";
    Err(refused("hostname", why).with("value", excerpt(hostname)))
}

fn check_user(user: &str) -> Result<(), Refusal> {
    let begins = user.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b == b'_');
    let plain = user.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if begins && plain && user.len() <= USER_LIMIT {
        return Ok(());
    }
    let why = "a user's name is 1 to 32 of a-z, 0-9, '_' and '-', and begins with a letter or '_'";
    Err(refused("user", why).with("value", excerpt(user)))
}

fn check_key(key: &str) -> Result<(), String> {
    if key.contains("PRIVATE KEY") {
        return Err("this is a private key; send the public one, from the file that ends in .pub".to_owned());
    }
    if key.len() > KEY_LIMIT || key.chars().any(char::is_control) {
        return Err(format!("a key is one line of at most {KEY_LIMIT} bytes"));
    }
    let mut words = key.split(' ').filter(|word| !word.is_empty());
    let (kind, body) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !KEY_KINDS.contains(&kind) {
        return Err(format!("a key begins with its kind, one of {}", KEY_KINDS.join(", ")));
    }
    key_body(kind, body).then_some(()).ok_or_else(|| format!("what follows {kind} is not the base64 of such a key"))
}

/// The body repeats the kind: four bytes of length, then its letters (RFC 4253).
fn key_body(kind: &str, body: &str) -> bool {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let Ok(bytes) = BASE64_STANDARD.decode(body) else { return false };
    let named = (kind.len() as u32).to_be_bytes().into_iter().chain(kind.bytes());
    bytes.len() > kind.len() + 4 && bytes.iter().copied().zip(named).all(|(is, should)| is == should)
}

/// What apt, dnf, zypper and apk take: a name, with a version, an architecture or a release behind it.
fn check_package(package: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._:=~/@".contains(&b);
    let begins = package.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if begins && package.len() <= 255 && package.bytes().all(plain) {
        return Ok(());
    }
    Err("a package begins with a letter or digit and is 1 to 255 of A-Z, a-z, 0-9 and + - . _ : = ~ / @".to_owned())
}

fn check_run(run: &Run) -> Result<(), String> {
    let texts = match run {
        Run::Line(line) => std::slice::from_ref(line),
        Run::Program(argv) => argv.as_slice(),
    };
    if texts.first().is_none_or(|first| first.trim().is_empty()) {
        return Err("there is nothing to run".to_owned());
    }
    // What YAML does not allow in a document even in quotes.
    let printable = |c: char| matches!(c, '\t' | '\n') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
    if texts.iter().all(|text| text.chars().all(printable)) {
        return Ok(());
    }
    Err("a command has no control characters but tabs and line ends".to_owned())
}

fn check_network(network: &Value) -> Result<(), Refusal> {
    let Some(object) = network.as_object() else {
        return Err(refused("network", "this must be an object: cloud-init's network configuration, version 2"));
    };
    if object.contains_key("network") {
        return Err(refused("network", "send what stands below `network`, without `network` around it"));
    }
    if object.get("version") != Some(&json!(2)) {
        return Err(refused("network", "it must say \"version\": 2; other versions are not taken"));
    }
    if network.to_string().len() > NETWORK_LIMIT {
        return Err(refused("network", format!("it is longer than {NETWORK_LIMIT} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::strict;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJvjSVYdnNVmWMZCSvmqPsGqFsSAzJmSzdTZO8hSKFqY me@here";

    fn read(value: Value) -> CloudInit {
        strict(&value).unwrap()
    }

    /// The field of the refusal.
    fn refusal(value: Value) -> String {
        let refusal = read(value).check().unwrap_err();
        refusal.facts["field"].as_str().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_whole_form_becomes_one_document() {
        let form = read(json!({
            "hostname": "web-1.example.org", "user": "ada", "ssh_authorized_keys": [KEY], "packages": ["nginx=1.22*".replace('*', "")],
            "runcmd": ["echo 'a: \"b\"' > /etc/x", ["touch", "/tmp/a b"]], "enableSerial": true,
            "network": {"version": 2, "ethernets": {"eth0": {"dhcp4": true}}},
        }));
        form.check().unwrap();
        let text = form.user_data();
        let (first, rest) = text.split_once('\n').unwrap();
        assert_eq!(first, "#cloud-config");
        let document: Value = serde_json::from_str(rest).unwrap();
        assert_eq!(document["users"][0]["name"], "ada");
        assert_eq!(document["users"][0]["ssh_authorized_keys"], json!([KEY]));
        assert_eq!(document["packages"], json!(["nginx=1.22"]));
        assert_eq!(document["runcmd"][0][3], "serial-getty@ttyS0.service");
        assert_eq!(document["runcmd"][1], "echo 'a: \"b\"' > /etc/x");
        assert_eq!(document["runcmd"][2], json!(["touch", "/tmp/a b"]));
        let rest = form.without_user_data();
        assert!(!rest.has_user_data() && rest.hostname.is_some() && rest.network.is_some());
    }

    #[test]
    fn keys_without_a_user_are_the_default_users() {
        let document = read(json!({"ssh_authorized_keys": [KEY]})).user_data();
        assert!(document.contains("\"ssh_authorized_keys\"") && !document.contains("users"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_place() {
        assert_eq!(refusal(json!({"hostname": "-web"})), "cloud_init.hostname");
        assert_eq!(refusal(json!({"hostname": "a..b"})), "cloud_init.hostname");
        assert_eq!(refusal(json!({"hostname": "a".repeat(64)})), "cloud_init.hostname");
        for user in ["", "Ada", "a b", "root:", "1a", &"a".repeat(33)] {
            assert_eq!(refusal(json!({"user": user})), "cloud_init.user", "{user:?}");
        }
        for key in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "dsa x",
            &KEY.replace("ssh-ed25519", "ssh-rsa"),
            &format!("{KEY}\n{KEY}"),
        ] {
            assert_eq!(
                refusal(json!({"ssh_authorized_keys": [KEY, key]})),
                "cloud_init.ssh_authorized_keys[1]",
                "{key:?}"
            );
        }
        for package in ["", "-y", "a b", "a;b", "--force"] {
            assert_eq!(refusal(json!({"packages": [package]})), "cloud_init.packages[0]", "{package:?}");
        }
        for run in [json!(""), json!([]), json!([""]), json!("a\u{7f}"), json!("a\u{0}b"), json!(["a", "\u{1b}"])] {
            assert_eq!(refusal(json!({"runcmd": [run]})), "cloud_init.runcmd[0]");
        }
        for network in [json!([]), json!({}), json!({"version": 1}), json!({"network": {"version": 2}})] {
            assert_eq!(refusal(json!({"network": network})), "cloud_init.network");
        }
        assert_eq!(refusal(json!({"packages": vec!["a"; 257]})), "cloud_init.packages");
    }

    #[test]
    fn a_private_key_is_recognised_and_not_quoted() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2";
        let refusal = read(json!({"ssh_authorized_keys": [key]})).check().unwrap_err();
        assert!(refusal.detail.contains("private key") && !format!("{refusal:?}").contains("hunter2"));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(strict::<CloudInit>(&json!({"sshKeys": []})).is_err());
    }
}
