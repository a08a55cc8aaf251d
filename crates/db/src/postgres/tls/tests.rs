//! What an address says about TLS, and what a real server with certificates of ours makes of it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use hostler_fixture::Postgres;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::*;
use crate::{Db, postgres::Server};

fn said(query: &str) -> Result<Tls> {
    Tls::parse(&format!("postgres://u:secret@db.example.com/h?{query}")).map(|(tls, _)| tls)
}

#[test]
fn an_address_says_how_much_is_asked_of_its_server() {
    let mode = |query: &str| said(query).unwrap().mode;
    assert_eq!((mode(""), mode("sslmode=prefer")), (Mode::Prefer, Mode::Prefer));
    assert_eq!((mode("sslmode=disable"), mode("sslmode=require")), (Mode::Disable, Mode::Require));
    let (_, config) = Tls::parse("postgres://u@h/d?sslmode=verify-full&connect_timeout=7&sslrootcert=system").unwrap();
    assert_eq!((config.get_ssl_mode(), config.get_connect_timeout().unwrap().as_secs()), (SslMode::Require, 7));
    let (local, _) = Tls::parse("postgres://u@%2Frun%2Fpostgresql/d?sslmode=verify-full").unwrap();
    assert_eq!(local.mode, Mode::Disable, "over a socket there is none");
    for (query, told) in [
        ("sslmode=allow", "say one of disable, prefer, require, verify-ca, verify-full"),
        ("sslrootcert=/a", "say sslmode=verify-full"),
        ("sslcert=/a", "give both, or neither"),
        ("sslmode=verify-ca&sslrootcert=/not%20there", "/not there cannot be used"),
        ("sslcrl=/a", "unknown option"),
    ] {
        let error = said(query).unwrap_err().to_string();
        assert!(error.contains(told) && !error.contains("secret"), "{error}");
    }
}

/// An authority and what it signed, in files.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let (mut params, key) = (CertificateParams::new([]).unwrap(), KeyPair::generate().unwrap());
        let folder = tempfile::tempdir().unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Of two with one name OpenSSL would say that the signature is broken.
        params.distinguished_name.push(rcgen::DnType::CommonName, folder.path().display().to_string());
        fs::write(folder.path().join("ca"), params.self_signed(&key).unwrap().pem()).unwrap();
        Authority { folder, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A certificate and its key.
    fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> (String, String) {
        let (mut params, key) = (CertificateParams::new([name.to_owned()]).unwrap(), KeyPair::generate().unwrap());
        params.extended_key_usages = vec![purpose];
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// The same, in files that only their owner reads.
    fn give(&self, name: &str) -> String {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ClientAuth);
        fs::write(self.file("client"), certificate).unwrap();
        fs::write(self.file("client.key"), key).unwrap();
        fs::set_permissions(Path::new(&self.file("client.key")), fs::Permissions::from_mode(0o600)).unwrap();
        format!("&sslcert={}&sslkey={}", self.file("client"), self.file("client.key"))
    }

    /// A server with a certificate for this name.
    fn server(&self, name: &str, more: &[&str], files: &[(&str, &[u8])]) -> Postgres {
        let (certificate, key) = self.sign(name, ExtendedKeyUsagePurpose::ServerAuth);
        let files: Vec<(&str, &[u8])> = [("server.crt", certificate.as_bytes()), ("server.key", key.as_bytes())]
            .into_iter()
            .chain(files.iter().copied())
            .collect();
        Postgres::listening(&[&["ssl=on"], more].concat(), &files).unwrap()
    }
}

/// Whether the connection of a session is under TLS, by the server's word.
fn asked(url: &str) -> Result<bool> {
    let ask = || {
        let server = Server::parse(url)?;
        let row = server.connect()?.query_one("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
        Ok(row.map_err(|error| server.wrap(&error))?.get(0))
    };
    std::thread::scope(|scope| scope.spawn(ask).join().unwrap())
}

#[test]
fn each_mode_asks_of_a_server_what_it_says() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let named = ours.server("db.test", &[], &[]);
    let database = named.database().unwrap();
    let url = |query: &str| format!("{}?{query}", database.url());
    // The name by which it is called is one thing, where it is another.
    let address =
        database.url().split_once('@').and_then(|(_, rest)| Some(rest.split_once(':')?.0.to_owned())).unwrap();
    let by_name = |name: &str, query: &str| {
        url(&format!("hostaddr={address}&{query}")).replace(&format!("@{address}"), &format!("@{name}"))
    };
    let (ca, other) = (format!("&sslrootcert={}", ours.file("ca")), format!("&sslrootcert={}", theirs.file("ca")));
    for (address, under_tls) in [
        (url("sslmode=disable"), false),
        (url("sslmode=prefer"), true),
        (database.url(), true),
        (url("sslmode=require"), true),
        (url(&format!("sslmode=verify-ca{ca}")), true),
        (by_name("db.test", &format!("sslmode=verify-full{ca}")), true),
    ] {
        assert_eq!(asked(&address).unwrap(), under_tls, "{address}");
    }
    for (address, told) in [
        (url(&format!("sslmode=verify-ca{other}")), "sslrootcert must name the authority"),
        (url(&format!("sslmode=require{other}")), "sslrootcert must name the authority"),
        (by_name("db.test", &format!("sslmode=verify-full{other}")), "sslrootcert must name the authority"),
        (url("sslmode=verify-full"), "sslrootcert must name the authority"),
        (by_name("other.test", &format!("sslmode=verify-full{ca}")), "a name that stands in its certificate"),
    ] {
        let error = asked(&address).unwrap_err();
        assert!(error.is_outage() && error.to_string().contains(told), "{address}: {error}");
    }
}

#[test]
fn a_server_without_tls_is_refused_where_it_is_required_and_taken_where_it_is_preferred() {
    let plain = Postgres::listening(&[], &[]).unwrap();
    let database = plain.database().unwrap();
    assert!(!asked(&database.url()).unwrap());
    let error = asked(&format!("{}?sslmode=require", database.url())).unwrap_err().to_string();
    assert!(error.contains("does not support TLS"), "{error}");
}

#[test]
fn a_client_shows_its_certificate_and_passwords_are_tied_to_the_connection() {
    let authority = Authority::new();
    let ca = fs::read(authority.file("ca")).unwrap();
    let lets_in = b"hostssl all hostler all trust clientcert=verify-ca\nhostssl all ada all scram-sha-256\n";
    let own = authority.give("hostler");
    let server = authority.server("db.test", &["ssl_ca_file=root.crt"], &[("root.crt", &ca)]);
    let database = server.database().unwrap();
    database.run("CREATE ROLE ada LOGIN PASSWORD 'secret'").unwrap();
    server.put("pg_hba.conf", lets_in).unwrap();
    database.run("SELECT pg_reload_conf()").unwrap();
    let with =
        |query: &str| format!("{}?sslmode=verify-ca&sslrootcert={}{query}", database.url(), authority.file("ca"));
    // The server looks at its files again soon, not at once.
    while asked(&with("")).is_ok() {}
    let error = asked(&with("")).unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert!(asked(&with(&own)).unwrap());
    let ada = |query: &str| with(query).replace("//hostler@", "//ada:secret@");
    assert!(asked(&ada("&channel_binding=require")).unwrap());
    let error = asked(&ada("&channel_binding=require").replace("secret", "wrong")).unwrap_err().to_string();
    assert!(error.contains("password authentication failed") && !error.contains("wrong"), "{error}");
    fs::set_permissions(Path::new(&authority.file("client.key")), fs::Permissions::from_mode(0o644)).unwrap();
    let error = asked(&with(&own)).unwrap_err().to_string();
    assert!(error.contains("chmod it to 0600"), "{error}");
}

#[tokio::test]
async fn everything_that_a_store_does_goes_under_tls_and_so_do_the_programs_of_a_backup() {
    let authority = Authority::new();
    let server = authority.server("db.test", &[], &[]);
    let database = server.database().unwrap();
    let url = format!("{}?sslmode=verify-ca&sslrootcert={}", database.url(), authority.file("ca"));
    let db = Db::postgres(&url, &["CREATE TABLE t (n BIGINT)"], None).unwrap();
    let channel = db.channel(|_| {}, |words: Vec<&str>| words.join(" ")).unwrap().unwrap();
    channel.say("hello");
    let connections = "SELECT CAST(COUNT(*) AS TEXT) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                        WHERE a.application_name LIKE 'hostler%' AND s.ssl";
    // The writer, the readers, the listener and the speaker.
    while database.ask(connections).unwrap() != "7" {
        tokio::task::yield_now().await;
    }
    let plain = connections.replace("AND s.ssl", "AND NOT s.ssl");
    assert_eq!(database.ask(&plain).unwrap(), "0");
    let ask = |url: &str| {
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let mut psql = Command::new("psql");
        psql.envs(crate::backup::variables(url).unwrap()).args(["--no-psqlrc", "-Atc", query]).output().unwrap()
    };
    assert_eq!(String::from_utf8(ask(&url).stdout).unwrap().trim(), "t");
    let wrong = Authority::new();
    let refused = ask(&url.replace(&authority.file("ca"), &wrong.file("ca")));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("certificate"), "{said}");
}
